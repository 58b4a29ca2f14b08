"""From an ``nn.Module`` to files that run elsewhere. Knows nothing of recipes, of timing or of judgement."""

import os as _os

for _name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # its name has changed between releases
    _os.environ.setdefault(_name, "1")  # from 1.31 on ONNX Runtime reports home, and keeps an id of the machine in HOME
