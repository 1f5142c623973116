"""What a Linux backend hands over: the engine's file, and what the runner must know to open it.

A backend is a module `sdk.backends.<engine>` with two functions:

    refusal(model, recipe) -> str | None
        Why the recipe cannot be (one sentence with the mend), or None. Cheap: called while planning, exports nothing heavy.
    emit(model, recipe, samples, progress) -> Payload
        The file. `samples` are calibration inputs (float32, in the source model's shapes), empty where none are needed.

Whatever happens inside, a payload takes and gives what the source model does: the same names, shapes, layout and data types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sdk.errors import UsageError


@dataclass(frozen=True)
class Port:
    """An input or output of the payload. `shape` is fixed, batch included; `scale` and `zero_point` only where it is quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Payload:
    """Files by relative path; `entry` is the one that the engine opens. `requires`: Python packages of the device with versions.

    `options` are handed to `sdk.runner.engines.open_engine`; `notes` are sentences for the plan and the report. `tolerance`: how far
    other machines may be off the golden outputs, of the largest value; None where the precision decides, 0 where every byte must agree.
    """

    files: Mapping[str, bytes] = field(repr=False)
    entry: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    requires: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.entry not in self.files:
            raise UsageError(f"the payload's entry {self.entry!r} is not among its files")
        for name in ("files", "requires", "options"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
