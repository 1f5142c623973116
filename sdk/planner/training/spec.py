"""`Training`: what the user asks of training on a device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sdk.errors import UsageError

OPTIMISERS = ("sgd", "momentum")
METHODS = ("auto", "exact", "bias", "svd", "hosvd", "asi", "fixed", "adapter")
FACTORS = ("auto", "float32", "float16", "int8")
#: Methods whose projected inputs are held in 8 bits unless something else is asked for: it costs their gradients no direction that
#: could be measured. svd and hosvd stay as published; what keeps (a part of) the input itself stays exact.
IN_8_BITS = ("fixed", "asi", "adapter")
_UNITS = {"": 1, "B": 1, "KB": 1000, "KIB": 1024, "K": 1024, "MB": 1000**2, "MIB": 1024**2, "M": 1024**2, "GB": 1000**3, "GIB": 1024**3, "G": 1024**3}


@dataclass(frozen=True)
class Training:
    """How a model is to learn on its device. `sdk.plan(device, model, training=Training(...))` chooses what this leaves open.

    batch: samples per update. micro_batch: how many go forward and back at once (0: the planner chooses; gradients add up).
    optimiser: "sgd", or "momentum" (one more value per trained weight). learning_rate and momentum are its own.
    layers: "auto" (the planner chooses), "all", "classifier", "last4" (any number: the last convolutions and linear layers), or names.
    method: "auto" (per layer, by the planner) or one for every trained layer: "exact", "bias", "svd", "hosvd", "asi", "fixed", "adapter".
    eps: the share of an activation's energy that compression keeps, in (0, 1]; of fixed bases of named layers: the share of their gradient that
    all of them together keep, divided so that it takes the fewest bytes.
    factors: how compressed activations are held: "float32", "float16", "int8", or "auto": int8 for fixed, asi and adapter, else float32.
    budget: bytes training may take in all, a number or text as "64KiB" or "200 MB"; None: what the device has.
    refresh: renew fixed bases when the captured energy falls. seed: of everything random.
    Raises UsageError for a value that is not possible.
    """

    batch: int = 16
    micro_batch: int = 0
    optimiser: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    layers: str | Sequence[str] = "auto"
    method: str = "auto"
    eps: float = 0.9
    factors: str = "auto"
    budget: int | str | None = None
    refresh: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", size_bytes(self.budget))
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(self.layers))
        for name, value, known in (("optimiser", self.optimiser, OPTIMISERS), ("method", self.method, METHODS), ("factors", self.factors, FACTORS)):
            if value not in known:
                raise UsageError(f"training {name} {value!r} is not known; choose one of {', '.join(known)}")
        if self.batch < 1 or self.micro_batch < 0:
            raise UsageError(f"training batch {self.batch} with micro-batches of {self.micro_batch} is not possible; give a batch of 1 or more")
        if not 0 < self.eps <= 1:
            raise UsageError(f"training eps {self.eps} is not possible; it is a share of the energy, above 0 and at most 1")
        if not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise UsageError(f"learning rate {self.learning_rate} with momentum {self.momentum} is not possible; give a rate above 0 and a momentum in [0, 1)")

    @property
    def budget_bytes(self) -> int | None:
        """The budget in bytes; None where the device decides."""
        return self.budget if isinstance(self.budget, int) else None

    def factors_of(self, method: str) -> str:
        """How what a layer keeps by `method` is held: "float32", "float16" or "int8"."""
        if self.factors != "auto":
            return self.factors
        return "int8" if method in IN_8_BITS else "float32"

    @property
    def optimiser_copies(self) -> int:
        """Values the optimiser keeps for every trained weight."""
        return 1 if self.optimiser == "momentum" else 0


def size_bytes(value: int | str | None) -> int | None:
    """65536 from "64KiB", "64 KiB" or 65536; None stays None. Raises UsageError for anything else."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
    unit = _UNITS.get(found.group(2).upper()) if found else None
    if found is None or unit is None or float(found.group(1)) * unit < 1:
        raise UsageError(f"a memory budget of {value!r} cannot be read; give bytes, or a number with a unit as in 64KiB or 200MB")
    return int(float(found.group(1)) * unit)
