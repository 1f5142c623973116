"""What a Linux device can be asked to run: an engine, a precision, a number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sdk.errors import UsageError

#: Engines in the order in which ties are broken. "tensorrt" is built on the Jetson itself; "native" is our own C, for want of any other.
ENGINES = ("onnx", "litert", "executorch", "tensorrt", "native")
#: Every Linux device has it, and auto takes it only where no other engine can be had.
LAST_RESORT = "native"
#: float32; int8 with calibrated activations; int8 weights with activations scaled at run time (dynamic); half floats (TensorRT).
PRECISIONS = ("float32", "int8", "dynamic-int8", "float16")


@dataclass(frozen=True, order=True)
class Recipe:
    """One way to run a model: `engine` at `precision` on `threads` threads, with the engine's own `options`.

    Checks itself when made; raises UsageError for an unknown engine or precision, or no thread.
    """

    engine: str
    precision: str
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"backend {self.engine!r} is not known; choose one of {', '.join(ENGINES)} or auto")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
        if self.threads < 1:
            raise UsageError(f"{self.threads} threads were asked for; give 1 or more")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @property
    def name(self) -> str:
        """`onnx/int8/2t`."""
        return f"{self.engine}/{self.precision}/{self.threads}t"

    def __str__(self) -> str:
        return self.name
