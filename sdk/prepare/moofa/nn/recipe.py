"""How a supernet is trained: phases, each with the part of the space that it draws from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdk.errors import UsageError
from sdk.prepare.moofa.space import Ladder

#: What a phase's subnets learn from besides or instead of labels: nothing, the largest subnet of the same step, the finished largest net.
TEACHERS = ("labels", "in-place", "frozen")


@dataclass(frozen=True)
class Phase:
    """Part of a training. `ladder` is the supernet's with fewer choices: what subnets are drawn from."""

    name: str
    epochs: float
    rate: float  #: the learning rate's peak
    ladder: Ladder
    subnets: int  #: drawn at random each step
    teacher: str = "in-place"
    sort_first: bool = False  #: order channels by importance before it

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise UsageError(f"teacher {self.teacher!r} is not known; choose from {', '.join(TEACHERS)}")
        if self.epochs <= 0 or self.rate <= 0 or self.subnets < 0:
            raise UsageError(f"phase {self.name}: epochs {self.epochs:g} and rate {self.rate:g} must be positive, subnets {self.subnets} not negative")


@dataclass(frozen=True)
class Recipe:
    """Phases one after the other, and what they share. decay: on matrices and kernels only, not on batch norm, biases and kernel transforms."""

    phases: tuple[Phase, ...]
    batch: int = 128
    momentum: float = 0.9
    decay: float = 3e-5
    smoothing: float = 0.1
    warm: float = 0.1  #: share of a phase in which its rate rises from zero; then a cosine down to zero
    shift: int = 4  #: pixels by which training pictures are moved
    seed: int = 0
    bfloat16: bool = False  #: products in bfloat16, sums and weights in float32


def sandwich(ladder: Ladder, epochs: float, rate: float = 0.1, subnets: int = 1, alone: float = 0.0, **shared: object) -> Recipe:
    """Each step the largest subnet by the labels, the smallest and `subnets` random ones by the largest's answers (arXiv 2003.11142).

    alone: epochs before it in which only the largest learns, which cost a third.
    """
    whole = Phase("sandwich", epochs, rate, ladder, subnets, sort_first=alone > 0)
    first = (Phase("largest", alone, rate, narrowed(ladder), 0, "labels"),) if alone else ()
    return replace(Recipe((*first, whole)), **shared)  # type: ignore[arg-type]


def shrinking(ladder: Ladder, scale: float = 1.0, rate_scale: float = 1.0, **shared: object) -> Recipe:
    """The published progressive shrinking: the largest net, then elastic kernels, depth in two steps, expansion in two (arXiv 1908.09791, 2409.05900).

    scale: of the published numbers of epochs (180, 125, 25, 125, 25, 125); rate_scale: of the published rates, which are for 64 pictures a step.
    """
    top = narrowed(ladder)
    kernels = replace(top, kernels=ladder.kernels, resolutions=ladder.resolutions)
    depths = [replace(kernels, depths=ladder.depths[i:]) for i in _towards_all(ladder.depths)]
    wide = [replace(depths[-1], expansions=ladder.expansions[i:]) for i in _towards_all(ladder.expansions)]
    phases = [Phase("largest", 180 * scale, 0.03 * rate_scale, top, 0, "labels"), Phase("kernels", 125 * scale, 3e-3 * rate_scale, kernels, 1, "frozen")]
    for i, space in enumerate(depths):
        last = i == len(depths) - 1
        phases.append(Phase(f"depths {i + 1}", (125 if last else 25) * scale, (7.5e-4 if last else 2.5e-4) * rate_scale, space, 2, "frozen"))
    for i, space in enumerate(wide):
        last = i == len(wide) - 1
        phases.append(Phase(f"expansions {i + 1}", (125 if last else 25) * scale, 2.5e-4 * rate_scale, space, 4, "frozen", sort_first=i == 0))
    return replace(Recipe(tuple(phases)), **shared)  # type: ignore[arg-type]


def narrowed(ladder: Ladder) -> Ladder:
    """The ladder with the largest of every choice alone."""
    return replace(ladder, **{name: getattr(ladder, name)[-1:] for name in ("kernels", "expansions", "depths", "resolutions")})


def _towards_all(choices: tuple[float, ...]) -> list[int]:
    """Where the choices begin in each step: the largest two, then all."""
    return sorted({max(0, len(choices) - 2), 0}, reverse=True)
