"""Which torch a test is about: what an older one cannot do upstream is skipped there, with what that is."""

from __future__ import annotations

import pytest
import torch
from torch.torch_version import TorchVersion


def since(version: str, cannot: str) -> pytest.MarkDecorator:
    """A mark for what is known to work from ``version`` on; ``cannot`` says what older ones do."""
    older = TorchVersion(torch.__version__) < TorchVersion(version)
    return pytest.mark.skipif(older, reason=f"torch {torch.__version__} {cannot}; not so from {version} on")


CUDA_BUILD_WITHOUT_DRIVER = pytest.mark.skipif(
    torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="a build for CUDA asks the driver, where there is none, how cuDNN runs a recurrent layer",
)
