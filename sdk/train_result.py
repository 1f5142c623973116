"""What training on a device gave, whichever device: losses, held-back accuracy before and after, what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Why training ended.
ENDS = ("done", "early stop", "asked to stop")


@dataclass(frozen=True)
class TrainStep:
    """One update, told while it happens; `step` and `epoch` count from 1. `loss` is the mean over its batch; `accuracy` the share of its
    samples that were right before the update; `held_out` the accuracy on held-back samples where this step ended an epoch; `memory_bytes`
    in use on the device; `of`: how many updates there will be at most, 0 where that is not known."""

    step: int
    epoch: int
    loss: float
    accuracy: float | None = None
    held_out: float | None = None
    memory_bytes: int | None = None
    of: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what is not known."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class TrainResult:
    """`losses`: of every update in order. Accuracies are shares in [0, 1] of `held_out` samples, None where none were held back.

    `ended`: one of ENDS. `memory_bytes`: the peak on the device. `instructions`: of one update, on an emulated board.
    """

    steps: int
    losses: tuple[float, ...] = field(repr=False)
    accuracy_before: float | None = None
    accuracy: float | None = None
    held_out: int = 0
    ended: str = "done"
    seconds: float = 0.0
    memory_bytes: int | None = None
    instructions: int | None = None

    @property
    def no_worse(self) -> bool:
        """True when the held-back samples are judged at least as well as before, or none were held back."""
        return self.accuracy is None or self.accuracy_before is None or self.accuracy >= self.accuracy_before

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "losses": list(self.losses), "no_worse": self.no_worse}

    def __str__(self) -> str:
        first, last = _ends(self.losses)
        parts = [f"{self.steps:,} updates in {self.seconds:.1f} s ({self.ended})", f"loss {first:.4f} to {last:.4f}"]
        if self.accuracy is not None and self.accuracy_before is not None:
            parts.append(f"{self.held_out:,} held-back samples: {100 * self.accuracy_before:.2f} % before, {100 * self.accuracy:.2f} % after")
        if self.memory_bytes:
            parts.append(f"peak memory {self.memory_bytes / 2**20:.1f} MiB" if self.memory_bytes >= 2**20 else f"{self.memory_bytes:,} bytes of memory")
        if self.instructions:
            parts.append(f"{self.instructions:,} instructions an update")
        return "; ".join(parts)


def _ends(losses: tuple[float, ...]) -> tuple[float, float]:
    """Mean loss of the first and the last tenth: single batches say little."""
    count = max(1, len(losses) // 10)
    mean = [sum(part) / max(1, len(part)) for part in (losses[:count], losses[-count:])]
    return mean[0], mean[1]
