"""An accuracy and a cost made up for tests of MOOFA's search: with interactions, saturation and noise, as measured subnets have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from sdk.prepare.moofa.paper import peak_items
from sdk.prepare.moofa.space import Block, Ladder, Subnet, active, blocks, sample


def block_macs(block: Block) -> int:
    """Multiply-accumulates of a block's convolutions."""
    expand = block.inputs * block.hidden * block.side**2 if block.expands else 0
    return expand + block.hidden * block.side_after**2 * (block.kernel**2 + block.outputs)


def macs(ladder: Ladder, subnet: Subnet) -> int:
    return sum(block_macs(block) for block in blocks(ladder, subnet))


@dataclass
class MadeUpAccuracy:
    """Accuracy in [0, 1]: saturates in the work done, slots differ in worth, a wide block gains more from a large kernel, a deep stage less from each block."""

    ladder: Ladder
    noise: float = 0.0
    seed: int = 0
    worth: np.ndarray = field(init=False)  # [slots, 3]: of expansion, of kernel, of the two together

    def __post_init__(self) -> None:
        self.worth = np.random.default_rng(self.seed).uniform(0.2, 1.0, (self.ladder.slots, 3)) * (1.0, 0.6, 0.3)

    def __call__(self, subnet: Subnet) -> float:
        """The noise is the subnet's own: the same whenever it is measured."""
        gain, deepest = 0.0, self.ladder.depths[-1]
        for slot in active(self.ladder, subnet):
            wide = self.ladder.expansions.index(subnet.expansions[slot]) / (len(self.ladder.expansions) - 1)
            large = self.ladder.kernels.index(subnet.kernels[slot]) / (len(self.ladder.kernels) - 1)
            base = 0.8 if slot % deepest >= self.ladder.depths[0] else 0.0
            gain += (base + np.dot(self.worth[slot], (wide, large, wide * large))) / (1 + 0.3 * (slot % deepest))
        side = math.log(subnet.resolution / self.ladder.resolutions[0]) / math.log(self.ladder.resolutions[-1] / self.ladder.resolutions[0])
        share = 0.7 * (1 - math.exp(-3 * gain / (2.0 * self.ladder.slots))) + 0.3 * side + 0.1 * side * gain / (2.0 * self.ladder.slots)
        return 0.62 + 0.15 * share + self.noise * Random(repr((self.seed, subnet.key(self.ladder)))).gauss(0, 1)

    def many(self, subnets: Sequence[Subnet]) -> np.ndarray:
        return np.array([self(subnet) for subnet in subnets])


@dataclass(frozen=True)
class MadeUpCost:
    """Fields as the planner's costs have them."""

    arena_bytes: int
    flash_bytes: int
    macs: int
    latency_ms: float
    training_bytes: int | None = None


@dataclass
class MadeUpCosts:
    """The paper's peak as the arena, weights as the flash, work as the latency."""

    ladder: Ladder
    asked: int = 0

    def __call__(self, subnet: Subnet) -> MadeUpCost:
        self.asked += 1
        weights = sum(b.hidden * (b.kernel**2 + b.outputs + (b.inputs if b.expands else 0)) for b in blocks(self.ladder, subnet))
        work = macs(self.ladder, subnet)
        return MadeUpCost(peak_items(self.ladder, subnet), weights, work, work / 1e5, 3 * peak_items(self.ladder, subnet))


def draws(ladder: Ladder, count: int, seed: int) -> list[Subnet]:
    random = Random(seed)
    return [sample(ladder, random) for _ in range(count)]
