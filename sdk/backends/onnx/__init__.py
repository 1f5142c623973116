"""ONNX Runtime: float32, calibrated int8 (QDQ) and dynamic int8, from a torch program or an .onnx file."""

from __future__ import annotations

from sdk.backends.onnx.emit import emit, refusal
from sdk.backends.onnx.report import error_report

__all__ = ["emit", "error_report", "refusal"]
