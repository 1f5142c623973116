"""ExecuTorch with XNNPACK: float32, calibrated int8 and dynamic int8, from a torch program."""

from __future__ import annotations

from sdk.backends.executorch.emit import emit, refusal
from sdk.backends.executorch.report import error_report

__all__ = ["emit", "error_report", "refusal"]
