"""`TrainingPlan`: everything decided about training a model on a Linux device, with the figures it was decided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdk.planner.records import Mend, Shortfall
from sdk.planner.training.records import Choice, LayerRecord
from sdk.planner.training.spec import Training

if TYPE_CHECKING:
    from targets.device import Device

#: Classes of `TrainingPlan.bytes`, in the order they are told.
CLASSES = ("runtime", "weights", "trained", "optimiser", "bases", "saved", "undo", "transients")


@dataclass(frozen=True)
class LayerPlan:
    """One layer: how it learns, what that takes, and its share of the expected gain.

    saved_bytes: of its input and of what follows up to the next layer, for one micro-batch. bases_bytes: independent of the batch.
    learns_bytes: values that move. step_s: None where the device's speed is not known. cosine: to the exact gradient, as calibrated.
    """

    choice: Choice
    record: LayerRecord = field(repr=False)
    saved_bytes: int
    bases_bytes: int
    learns_bytes: int
    step_s: float | None
    gain: float
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("choice", "record")}
        shapes = {"op": self.record.op, "input_shape": list(self.record.input_shape), "weight_shape": list(self.record.weight_shape)}
        return {**asdict(self.choice), "ranks": list(self.choice.ranks), **shapes, **figures}


@dataclass(frozen=True)
class CurvePoint:
    """What more or less memory would give: the peak, the expected gain (1: everything exact), layers that learn."""

    peak_bytes: int
    gain: float
    layers: int


@dataclass(frozen=True)
class StepTime:
    """Estimated seconds of one update. `error`: the factor within which nine of ten measured steps lay; `basis`: where the rates come from."""

    seconds: float
    error: float
    basis: str


@dataclass(frozen=True)
class TrainingPlan:
    """How a model learns on a Linux device, and what that takes.

    micro_batch: samples that go forward and back at once. bytes: of the process at its highest moment (`moment`), by CLASSES.
    smallest_bytes: the smallest budget with which what was asked can be trained at all. gain: expected decrease of the loss for one small
    step, as a share of what training everything exactly gives. A plan that does not fit holds the smallest choice there is.
    model, program, calibration: what `sdk.compile` writes the artifact from.
    """

    name: str
    device: Device
    training: Training
    micro_batch: int
    layers: tuple[LayerPlan, ...]
    bytes: Mapping[str, int]
    moment: str
    budget_bytes: int
    smallest_bytes: int
    gain: float
    curve: tuple[CurvePoint, ...] = ()
    step_time: StepTime | None = None
    decisions: tuple[str, ...] = ()
    mends: tuple[Mend, ...] = ()
    threads: int = 1
    basis: str = ""
    model: Any = field(default=None, repr=False, compare=False)
    program: Any = field(default=None, repr=False, compare=False)
    calibration: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", MappingProxyType({name: int(self.bytes.get(name, 0)) for name in CLASSES}))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """How each layer learns, in forward order; frozen ones are left out."""
        return tuple(row.choice for row in self.layers if row.choice.method != "freeze")

    @property
    def records(self) -> tuple[LayerRecord, ...]:
        """What calibration saw of each layer."""
        return tuple(row.record for row in self.layers)

    @property
    def peak_bytes(self) -> int:
        """Predicted peak resident memory of the training process."""
        return sum(self.bytes.values())

    @property
    def fits(self) -> bool:
        """True when the peak is within the budget."""
        return self.peak_bytes <= self.budget_bytes

    @property
    def shortfall(self) -> tuple[Shortfall, ...]:
        """How much memory is missing for the smallest choice; empty where the plan fits."""
        return () if self.fits else (Shortfall("training budget", self.peak_bytes, self.budget_bytes),)

    @property
    def backend(self) -> str:
        """The engine that runs the model between updates."""
        return "torch"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the model, the program and the calibration's arrays."""
        return {
            "version": 1, "kind": "training", "name": self.name, "device": self.device.name, "backend": self.backend, "fits": self.fits,
            "training": asdict(self.training), "micro_batch": self.micro_batch, "threads": self.threads,
            "layers": [row.to_dict() for row in self.layers], "bytes": dict(self.bytes), "peak_bytes": self.peak_bytes, "moment": self.moment,
            "budget_bytes": self.budget_bytes, "smallest_bytes": self.smallest_bytes, "gain": self.gain,
            "curve": [asdict(point) for point in self.curve], "step_time": None if self.step_time is None else asdict(self.step_time),
            "decisions": list(self.decisions), "basis": self.basis,
            "shortfall": [{**asdict(s), "over_bytes": s.over_bytes} for s in self.shortfall],
            "mends": [{"text": m.text, "fits": m.fits, "ram_bytes": m.ram_bytes, "options": _plain(m.options)} for m in self.mends],
        }  # fmt: skip

    def to_html(self) -> str:
        """One self-contained page."""
        from sdk.planner.training.report_html import training_html

        return training_html(self)

    def __str__(self) -> str:
        from sdk.planner.training.report import training_text

        return training_text(self)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(value) if isinstance(value, Training) else value for name, value in options.items()}
