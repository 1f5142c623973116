"""LiteRT: a graph written as a `.tflite`, in float32 or int8."""

from sdk.backends.litert.backend import emit, refusal

__all__ = ["emit", "refusal"]
