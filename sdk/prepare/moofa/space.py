"""The space of subnets: which widths a ladder has, what a subnet chooses within it.

A ladder is MobileNetV3-like: a 3x3 stem, one block without expansion, stages of elastic inverted residuals, a final 1x1
convolution, a pool, a 1x1 layer that mixes the pooled features, a classifier. A subnet chooses a kernel size and an expansion
for each block, a depth for each stage and the side of the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from sdk.errors import UsageError

ACTIVATIONS = ("relu", "hswish")
#: Squeeze-excite layers hold this share of a block's channels.
SQUEEZE = 4


def divisible(value: float, by: int = 8) -> int:
    """`value` rounded to a multiple of `by`, never under nine tenths of it, as MobileNets round their widths.

    >>> [divisible(v) for v in (3, 12, 20, 75)]
    [8, 16, 24, 72]
    """
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Ladder:
    """Widths and what goes with them; the supernet is made of this alone."""

    name: str
    stem: int  #: channels of the 3x3 stem
    first: int  #: channels of the block without expansion
    stages: tuple[int, ...]  #: channels of each stage
    final: int  #: channels of the last 1x1 convolution, before the pool
    feature: int  #: channels of the 1x1 layer after the pool; 0 for none
    strides: tuple[int, ...]  #: of the stem, then of each stage's first block
    activations: tuple[str, ...]  #: of the first block, then of each stage: "relu" or "hswish"
    squeeze: tuple[bool, ...]  #: whether the first block, then each stage, has squeeze-excite
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[float, ...] = (2, 3, 4)
    depths: tuple[int, ...] = (2, 3, 4)
    resolutions: tuple[int, ...] = (128, 160, 192, 224)

    def __post_init__(self) -> None:
        count = len(self.stages)
        if len(self.strides) != count + 1 or len(self.activations) != count + 1 or len(self.squeeze) != count + 1:
            raise UsageError(f"ladder {self.name} has {count} stages, so strides, activations and squeeze need {count + 1} entries each")
        if unknown := set(self.activations) - set(ACTIVATIONS):
            raise UsageError(f"ladder {self.name}: activation {unknown.pop()!r} is not known; choose from {', '.join(ACTIVATIONS)}")
        for name in ("kernels", "expansions", "depths", "resolutions"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or min(values) <= 0:
                raise UsageError(f"ladder {self.name}: {name} {values} must be positive and rise")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise UsageError(f"ladder {self.name}: kernels {self.kernels} must be odd")

    @property
    def slots(self) -> int:
        """Blocks of the deepest subnet, without the first one."""
        return len(self.stages) * self.depths[-1]

    def hidden(self, channels: int, expansion: float) -> int:
        """Channels inside a block that gets `channels` and expands them."""
        return divisible(round(channels * expansion))


@dataclass(frozen=True)
class Subnet:
    """What a subnet chooses: kernel and expansion of every slot (those past a stage's depth do not count), depths, the input's side."""

    kernels: tuple[int, ...]
    expansions: tuple[float, ...]
    depths: tuple[int, ...]
    resolution: int

    def key(self, ladder: Ladder) -> tuple[Any, ...]:
        """Equal for subnets that are the same network."""
        used = list(active(ladder, self))
        return (tuple(self.kernels[i] for i in used), tuple(self.expansions[i] for i in used), self.depths, self.resolution)

    def to_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {"kernels": list(self.kernels), "expansions": list(self.expansions), "depths": list(self.depths), "resolution": self.resolution}


@dataclass(frozen=True)
class Block:
    """One inverted residual of a subnet, with everything that its cost depends on."""

    stage: int  #: 0 for the first block, then 1, 2, ...
    slot: int  #: index into a subnet's kernels and expansions; -1 for the first block
    inputs: int
    hidden: int  #: equal to `inputs` where there is no expansion
    outputs: int
    kernel: int
    stride: int
    side: int  #: of the input
    activation: str
    squeeze: bool
    expands: bool = field(default=True)

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def side_after(self) -> int:
        """Side of the output."""
        return -(-self.side // self.stride)


def check(ladder: Ladder, subnet: Subnet) -> Subnet:
    """The subnet, if it lies in the ladder's space. Raises UsageError with the first thing that does not."""
    slots, stages = ladder.slots, len(ladder.stages)
    if (len(subnet.kernels), len(subnet.expansions), len(subnet.depths)) != (slots, slots, stages):
        raise UsageError(f"a subnet of {ladder.name} has {slots} kernels, {slots} expansions and {stages} depths; this one has {len(subnet.kernels)}, "
                         f"{len(subnet.expansions)} and {len(subnet.depths)}")  # fmt: skip
    for name in ("kernels", "expansions", "depths"):
        for value in getattr(subnet, name):
            if value not in getattr(ladder, name):
                raise UsageError(f"{name[:-1]} {value} is not in {ladder.name}; choose from {', '.join(f'{v:g}' for v in getattr(ladder, name))}")
    if subnet.resolution not in ladder.resolutions:
        raise UsageError(f"resolution {subnet.resolution} is not in {ladder.name}; choose from {', '.join(map(str, ladder.resolutions))}")
    return subnet


def from_json(ladder: Ladder, record: dict[str, Any]) -> Subnet:
    """The subnet that `Subnet.to_json` wrote, checked."""
    try:
        made = Subnet(tuple(record["kernels"]), tuple(record["expansions"]), tuple(record["depths"]), record["resolution"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"a subnet needs kernels, expansions, depths and resolution: {error} in {record}") from error
    return check(ladder, made)


def ladder_from(record: Mapping[str, Any]) -> Ladder:
    """The ladder that `dataclasses.asdict` wrote, its lists as tuples again. Raises TypeError for other fields."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    return Ladder(**values)


def active(ladder: Ladder, subnet: Subnet) -> Iterator[int]:
    """The slots that a subnet uses."""
    deepest = ladder.depths[-1]
    for stage, depth in enumerate(subnet.depths):
        yield from range(stage * deepest, stage * deepest + depth)


def blocks(ladder: Ladder, subnet: Subnet) -> list[Block]:
    """The subnet's blocks from the input on, the one without expansion first."""
    side = -(-subnet.resolution // ladder.strides[0])
    found = [Block(0, -1, ladder.stem, ladder.stem, ladder.first, 3, 1, side, ladder.activations[0], ladder.squeeze[0], expands=False)]
    inputs, deepest = ladder.first, ladder.depths[-1]
    for slot in active(ladder, subnet):
        stage, within = slot // deepest + 1, slot % deepest
        stride = ladder.strides[stage] if within == 0 else 1
        hidden, outputs = ladder.hidden(inputs, subnet.expansions[slot]), ladder.stages[stage - 1]
        found.append(Block(stage, slot, inputs, hidden, outputs, subnet.kernels[slot], stride, side, ladder.activations[stage], ladder.squeeze[stage]))
        inputs, side = outputs, found[-1].side_after
    return found


def uniform(ladder: Ladder, kernel: int, expansion: float, depth: int, resolution: int) -> Subnet:
    """The subnet with the same choice everywhere."""
    return check(ladder, Subnet((kernel,) * ladder.slots, (expansion,) * ladder.slots, (depth,) * len(ladder.stages), resolution))


def largest(ladder: Ladder) -> Subnet:
    """The subnet with the most of everything."""
    return uniform(ladder, ladder.kernels[-1], ladder.expansions[-1], ladder.depths[-1], ladder.resolutions[-1])


def smallest(ladder: Ladder) -> Subnet:
    """The subnet with the least of everything."""
    return uniform(ladder, ladder.kernels[0], ladder.expansions[0], ladder.depths[0], ladder.resolutions[0])


def sample(ladder: Ladder, random: Random) -> Subnet:
    """A subnet drawn uniformly."""
    return Subnet(
        tuple(random.choice(ladder.kernels) for _ in range(ladder.slots)), tuple(random.choice(ladder.expansions) for _ in range(ladder.slots)),
        tuple(random.choice(ladder.depths) for _ in ladder.stages), random.choice(ladder.resolutions),
    )  # fmt: skip


def neighbours(ladder: Ladder, subnet: Subnet) -> Iterator[Subnet]:
    """Every subnet that differs in one choice that counts."""
    for name, at in itertools.chain(*([("kernels", i), ("expansions", i)] for i in active(ladder, subnet)), (("depths", i) for i in range(len(subnet.depths)))):
        now = getattr(subnet, name)
        for value in getattr(ladder, name):
            if value != now[at]:
                changed: dict[str, Any] = {name: (*now[:at], value, *now[at + 1 :])}
                yield replace(subnet, **changed)
    yield from (replace(subnet, resolution=side) for side in ladder.resolutions if side != subnet.resolution)
