"""A plan for a Linux device: the recipes that could run the model, what each would take, and which are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sdk.planner.recipes import Recipe
from sdk.planner.records import Mend, Plan, Shortfall

if TYPE_CHECKING:
    import numpy as np

    from sdk.data import Calibration
    from targets.device import Device


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident memory of the process that runs the model, in parts; `basis` says where the figures come from."""

    engine_bytes: int  # Python, numpy and the engine, loaded and idle
    weights_bytes: int  # the file and what the engine packs of it
    activations_bytes: int  # buffers and workspace of one inference
    basis: str

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.engine_bytes + self.weights_bytes + self.activations_bytes


@dataclass(frozen=True)
class Latency:
    """Estimated seconds of one inference. `error` is the factor within which nine of ten measured models lay (1.5: x0.67 to x1.5)."""

    seconds: float
    error: float
    basis: str


@dataclass(frozen=True)
class Candidate:
    """A recipe with its prediction, or with the sentence that rules it out."""

    recipe: Recipe
    memory: PeakMemory | None = None
    latency: Latency | None = None
    refusal: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        memory = None if self.memory is None else {**_plain(self.memory), "total_bytes": self.memory.total_bytes}
        return {
            "recipe": {"engine": self.recipe.engine, "precision": self.recipe.precision, "threads": self.recipe.threads, "options": dict(self.recipe.options)},
            "memory": memory, "latency": None if self.latency is None else _plain(self.latency), "refusal": self.refusal,
        }  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Data the user judges by: inputs, one tuple of arrays [1, ...] each, and their labels; or none, and `name` says what stands in."""

    samples: tuple[tuple[np.ndarray, ...], ...] = field(repr=False)
    labels: np.ndarray | None = field(repr=False)  # int64 [n]; None: agreement with the float model
    name: str


@dataclass(frozen=True)
class LinuxPlan:
    """Everything decided about running a model on a Linux device, short of which recipe is fastest: `sdk.compile` measures that.

    `model` is the loaded model; `base` the plan of its graph (order, lifetimes, peak by liveness). `memory_bytes` is what the
    device has for a process. `target`: where candidates are measured, "local" or "ssh://...".
    """

    name: str
    device: Device
    model: Any = field(repr=False)
    base: Plan = field(repr=False)
    candidates: tuple[Candidate, ...]
    memory_bytes: int
    accuracy_drop_points: float = 1.0
    calibration: Calibration | None = field(default=None, repr=False)
    evaluation: Evaluation | None = field(default=None, repr=False)
    target: str = "local"
    layer_report: bool = False  # compile tells what quantising costs each layer of the recipe it keeps
    decisions: tuple[str, ...] = ()
    mends: tuple[Mend, ...] = ()
    vectors: tuple[tuple[np.ndarray, ...], ...] = field(default=(), repr=False, compare=False)
    spare: tuple[Recipe, ...] = ()  # what compile tries where the target has the package of no candidate

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """Candidates that nothing rules out and whose predicted peak fits the device's memory."""
        return tuple(c for c in self.candidates if c.refusal is None and (c.memory is None or c.memory.total_bytes <= self.memory_bytes))

    @property
    def fits(self) -> bool:
        """True when at least one candidate is kept."""
        return bool(self.kept)

    @property
    def shortfall(self) -> tuple[Shortfall, ...]:
        """How much memory the smallest possible candidate lacks; empty when it fits, or when every candidate was refused."""
        sizes = [c.memory.total_bytes for c in self.candidates if c.refusal is None and c.memory is not None]
        return () if self.fits or not sizes else (Shortfall("ram", min(sizes), self.memory_bytes),)

    @property
    def backend(self) -> str:
        """The engine, when one is left; else "auto"."""
        engines = {c.recipe.engine for c in self.kept}
        return engines.pop() if len(engines) == 1 else "auto"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the model, the data and the vectors."""
        return {
            "version": 1,
            "kind": "linux",
            "name": self.name,
            "device": self.device.name,
            "backend": self.backend,
            "fits": self.fits,
            "memory_bytes": self.memory_bytes,
            "target": self.target,
            "accuracy_drop_points": self.accuracy_drop_points,
            "calibration_samples": self.calibration.count if self.calibration else 0,
            "evaluation": None if self.evaluation is None else {"name": self.evaluation.name, "samples": len(self.evaluation.samples)},
            "macs": self.base.macs,
            "weights_bytes": sum(t.size_bytes for t in self.base.graph.constants()),
            "activations_peak_bytes": sum(self.base.arena_bytes),
            "candidates": [c.to_dict() for c in self.candidates],
            "decisions": list(self.decisions),
            "shortfall": [{**_plain(s), "over_bytes": s.over_bytes} for s in self.shortfall],
            "mends": [{**_plain(m), "options": dict(m.options)} for m in self.mends],
        }

    def to_html(self) -> str:
        """One self-contained page."""
        from sdk.planner.linux_report import linux_html

        return linux_html(self)

    def __str__(self) -> str:
        from sdk.planner.linux_report import linux_text

        return linux_text(self)


@dataclass(frozen=True)
class Measured:
    """What one candidate did: on `where`, the lowest median of its rounds, peak memory of the runner that raced, accuracy beside the source's."""

    recipe: Recipe
    median_ms: float | None
    peak_rss_bytes: int | None
    accuracy: float | None  # share of right answers, or of answers equal to the source's
    source_accuracy: float | None
    file_bytes: int
    engine_version: str
    where: str
    verdict: str  # "chosen", or why not

    @property
    def drop_points(self) -> float | None:
        """Percentage points of accuracy lost to the source model."""
        return None if self.accuracy is None or self.source_accuracy is None else 100 * (self.source_accuracy - self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        row: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {"recipe": self.recipe.name, **row, "drop_points": self.drop_points}


def _plain(record: Any) -> dict[str, Any]:
    return {f.name: dict(v) if isinstance(v := getattr(record, f.name), Mapping) else v for f in fields(record)}
