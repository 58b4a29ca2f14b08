"""From an ``nn.Module`` to files that run elsewhere. Knows nothing of recipes, of timing or of judgement."""

import os as _os

TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}
"""From 1.31 on ONNX Runtime reports home, and keeps an id of the machine in HOME; the switch has had two names."""
_os.environ.update(TELEMETRY_OFF | _os.environ)
