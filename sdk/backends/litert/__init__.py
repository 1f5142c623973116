"""LiteRT: a graph written as a `.tflite`, in float32 or int8."""

from sdk.backends.litert.backend import emit, refusal
from sdk.backends.litert.report import error_report

__all__ = ["emit", "error_report", "refusal"]
