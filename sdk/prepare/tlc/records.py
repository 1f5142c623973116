"""What is asked of a collapse, and what it did: frozen records that check themselves, plain values for JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdk.errors import UsageError
from sdk.planner.training.spec import size_bytes

CHOICES = ("dynamic", "greedy", "random")
IMPORTANCES = ("auto", "divergence", "gap", "energy", "entropy")
RULES = ("line", "on_off", "identity")
COSTS = ("planned", "counted")


@dataclass(frozen=True)
class Budget:
    """What the collapsed network may take on the device, as the planner tells it; None: no bound.

    latency_ms, or latency_ratio of the dense network's; peak_ram: bytes of activations alive at once (a number, or text as "64KiB"), or
    peak_ram_ratio; removed: how many activations must go at least.
    Raises UsageError for a value that is not possible.
    """

    latency_ms: float | None = None
    latency_ratio: float | None = None
    peak_ram: int | str | None = None
    peak_ram_ratio: float | None = None
    removed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_ram", size_bytes(self.peak_ram))
        for name in ("latency_ratio", "peak_ram_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"budget {name} {value} is not possible; it is a share of what the network takes today, above 0 and at most 1")
        for name in ("latency_ms", "removed"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"budget {name} {value} is not possible; give a number above 0")
        for one, other in (("latency_ms", "latency_ratio"), ("peak_ram", "peak_ram_ratio")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UsageError(f"budget names both {one} and {other}, which may contradict each other; give one of them")
        if all(getattr(self, f.name) is None for f in fields(self)):
            raise UsageError("the budget bounds nothing; give latency_ms, latency_ratio, peak_ram, peak_ram_ratio or removed")

    def latency_s(self, dense_s: float) -> float | None:
        """Seconds, for a network that takes `dense_s` today."""
        if self.latency_ms is not None:
            return self.latency_ms / 1e3
        return None if self.latency_ratio is None else self.latency_ratio * dense_s

    def peak_bytes(self, dense_bytes: int) -> int | None:
        """Bytes, for a network that takes `dense_bytes` today."""
        if isinstance(self.peak_ram, int):
            return self.peak_ram
        return None if self.peak_ram_ratio is None else int(self.peak_ram_ratio * dense_bytes)


def budget_of(value: Any) -> Budget | None:
    """A Budget from one, from a mapping of its fields, or from a size in bytes (peak RAM). Raises UsageError for anything else."""
    if value is None or isinstance(value, Budget):
        return value
    if isinstance(value, Mapping):
        known = [f.name for f in fields(Budget)]
        wrong = [name for name in value if name not in known]
        if wrong:
            raise UsageError(f"budget names {wrong[0]!r}, which is no bound; choose from {', '.join(known)}")
        return Budget(**value)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return Budget(peak_ram=value)
    raise UsageError(f"a budget of {value!r} cannot be read; give a mapping such as {{'latency_ratio': 0.7}}, or bytes of peak RAM such as '64KiB'")


@dataclass(frozen=True)
class Settings:
    """How layers are chosen, replaced and the network trained between removals.

    choice: "dynamic" (least loss for the budget, by cost on the device), "greedy" (the paper's crossing set, whatever it costs), "random".
    importance: "divergence" (how far the answers move: KL from those of before, which some hundred samples tell well), "gap" (rise of the loss,
    the paper's, which is noise on so few), "energy" or "entropy" (from the normal distribution alone, without running the network), "auto": gap
    for the greedy choice, whose rule needs its sign, else divergence.
    rule: what an activation becomes, channel by channel. "line": the straight line of least mean square error, a constant where that explains
    next to nothing, and the identity behind an addition, where no layer could take a line in; "on_off": identity or zero by the sign of beta, the
    paper's; "identity": for all channels.
    cost: what tells latencies on a microcontroller. "planned": the planner's cycles; "counted": instructions, every part of the network compiled
    and run on the emulated board, which takes some seconds a part and needs compiler and emulator.
    per_round: activations removed between trainings. step: how much of the dense latency a round may save at most, where no budget says how far.
    epochs: of each round; final_epochs: once more at the end. rate, momentum, decay, batch: SGD, the rate falling to 0 over each round by a
    cosine (the paper trains 160 epochs a round at steps of 0.1; on a computer at the edge nobody can wait for that).
    distill: weight of the dense network's answers in the loss, 0 for labels only; temperature: of both. refit: least squares for the layers
    behind each removed activation, on refit_samples. score_samples: training samples that importance is measured on.
    held_out: share of the data that judges and is never trained on. max_rounds, seed.
    Raises UsageError for a value that is not possible.
    """

    choice: str = "dynamic"
    importance: str = "auto"
    rule: str = "line"
    cost: str = "planned"
    per_round: int = 2
    step: float = 0.08
    epochs: int = 2
    final_epochs: int = 0
    batch: int = 128
    rate: float = 0.02
    momentum: float = 0.9
    decay: float = 1e-4
    distill: float = 0.7
    temperature: float = 2.0
    refit: bool = True
    refit_samples: int = 512
    score_samples: int = 1000
    held_out: float = 0.1
    max_rounds: int = 40
    max_kernel: int = 7
    seed: int = 0

    @property
    def measure(self) -> str:
        """The importance that "auto" stands for."""
        return self.importance if self.importance != "auto" else "gap" if self.choice == "greedy" else "divergence"

    def __post_init__(self) -> None:
        for name, known in (("choice", CHOICES), ("importance", IMPORTANCES), ("rule", RULES), ("cost", COSTS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(known)}")
        for name, low in (("per_round", 1), ("epochs", 0), ("final_epochs", 0), ("batch", 1), ("refit_samples", 1), ("score_samples", 1), ("max_rounds", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} {getattr(self, name)} is not possible; give {low} or more")
        for name in ("step", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not possible; it is a share, above 0 and below 1")
        if not self.rate > 0 or not 0 <= self.momentum < 1 or not 0 <= self.distill <= 1 or not self.temperature > 0:
            raise UsageError("rate and temperature are above 0, momentum is in [0, 1) and distill in [0, 1]; one of those given is not")


@dataclass(frozen=True)
class Round:
    """One round: what went, and what the network was like after it. Accuracies are shares of the held-out samples.

    `accuracy_before_training`: right after removal and refit. `latency_s`, `peak_bytes`: expected on the device with the merges made.
    """

    number: int
    removed: tuple[str, ...]
    removed_in_all: int
    expected_loss: float
    accuracy_before_training: float
    accuracy: float
    drop_points: float
    latency_s: float
    peak_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "removed": list(self.removed)}


def round_of(data: Mapping[str, Any]) -> Round:
    """The Round that `to_dict` wrote."""
    return Round(**{**data, "removed": tuple(data["removed"])})


@dataclass(frozen=True)
class Layer:
    """A linear operation of the dense network in the report: `fate` is "kept" or the merge that it went into, `site` the activation behind it."""

    name: str
    kind: str
    fate: str
    site: str = ""
    removed: bool = False
    on_channels: int = 0
    channels: int = 0


@dataclass(frozen=True)
class Figures:
    """One network in figures. `measured_*`: on the emulated board, or on this computer; None where nothing was measured.

    `latency_s` and `peak_bytes` are the plan's; `layers` counts linear operations, `activations` those with an activation that may go.
    """

    layers: int
    activations: int
    parameters: int
    macs: int
    accuracy: float | None
    latency_s: float
    peak_bytes: int
    arena_bytes: int
    measured_instructions: int | None = None
    measured_latency_s: float | None = None
    measured_arena_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


#: Why a collapse ended. "budget missed": the parts promised the budget and the plan of the whole network needs more.
ENDS = ("budget met", "budget missed", "drop reached", "nothing left", "rounds used up", "asked to stop", "training diverged")


@dataclass(frozen=True)
class Report:
    """What a collapse did. `print(report)` is the table, `to_dict` JSON, `to_html` one page with the picture of the network's depth.

    `refused`: merges that the planner found slower or bigger on the device, each in a sentence. `agreement`: Pearson's r between the channels'
    P(x > 0) as the criterion foretells and as measured. `merge_error`: largest difference between the merged and the unmerged network.
    """

    name: str
    device: str
    basis: str
    before: Figures
    after: Figures
    ended: str
    rounds: tuple[Round, ...] = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    merged: tuple[str, ...] = ()
    refused: tuple[str, ...] = field(default=(), repr=False)
    agreement: float | None = None
    merge_error: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.ended not in ENDS:
            raise UsageError(f"a collapse cannot end with {self.ended!r}; it is one of {', '.join(ENDS)}")

    @property
    def drop_points(self) -> float | None:
        """Accuracy lost, in points; None where it was not judged."""
        if self.before.accuracy is None or self.after.accuracy is None:
            return None
        return 100 * (self.before.accuracy - self.after.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = {name: [asdict(row) for row in getattr(self, name)] for name in ("rounds", "layers")}
        plain = {name: getattr(self, name) for name in ("name", "device", "basis", "ended", "agreement", "merge_error")}
        return {
            "version": 1, **plain, "before": self.before.to_dict(), "after": self.after.to_dict(), "drop_points": self.drop_points, **rows,
            "merged": list(self.merged), "refused": list(self.refused), "settings": dict(self.settings),
        }  # fmt: skip

    def to_html(self) -> str:
        """One self-contained page."""
        from sdk.prepare.tlc.report import report_html

        return report_html(self)

    def save(self, folder: str | Path) -> Path:
        """Write `report.json` and `report.html` into a folder, made where it is missing; its path. Raises UsageError where it cannot be written."""
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "report.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            (path / "report.html").write_text(self.to_html(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the report cannot be written to {path} ({error.strerror}); name a folder that can be") from error
        return path

    def __str__(self) -> str:
        from sdk.prepare.tlc.report import report_text

        return report_text(self)
