"""The memory model of the MOOFA paper, in items, and its rule of widths: kept exact, as the yardstick of the published figures.

Every convolution holds its input, its output and its weights; the peak is the worst of them. The 1x1 layer after the pool and the
classifier, squeeze-excite and batch norm do not count, nor does the shortcut while a block is projected: a device has to hold all of these,
so `sdk.prepare.moofa.cost` plans them, and this file is for comparison with arXiv 2409.05900 only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sdk.prepare.moofa.space import Block, Ladder, Subnet, blocks, divisible

#: The rule's starting point: expansion, kernel, side and channels of the first elastic stage for a 224-pixel input.
REFERENCE = {"expansion": 4, "kernel": 7, "side": 56, "channels": 24}
#: Widths that the rule does not give: the paper's stem and first block.
STEM, FIRST = 3, 8


def conv_items(inputs: int, side: int, outputs: int, side_after: int, weights: int) -> int:
    """Items of one convolution: input, output and weights."""
    return inputs * side**2 + outputs * side_after**2 + weights


def block_items(block: Block) -> tuple[int, ...]:
    """Items of a block's convolutions, in order: expand (where there is one), depthwise, project."""
    side, after, hidden = block.side, block.side_after, block.hidden
    shortcut = block.inputs * side**2 if block.residual else 0
    expand = conv_items(block.inputs, side, hidden, side, block.inputs * hidden)
    depthwise = conv_items(hidden, side, hidden, after, hidden * block.kernel**2) + shortcut
    project = conv_items(hidden, after, block.outputs, after, hidden * block.outputs)
    return (expand, depthwise, project) if block.expands else (depthwise, project)


def items(ladder: Ladder, subnet: Subnet) -> Iterator[int]:
    """Items of every convolution that the paper counts, from the input on."""
    built = blocks(ladder, subnet)
    yield conv_items(3, subnet.resolution, ladder.stem, built[0].side, 27 * ladder.stem)
    for block in built:
        yield from block_items(block)
    last = built[-1]
    yield conv_items(last.outputs, last.side_after, ladder.final, last.side_after, last.outputs * ladder.final)


def peak_items(ladder: Ladder, subnet: Subnet) -> int:
    """The most items that the subnet holds at once, by the paper's model (batch of one).

    >>> from sdk.prepare.moofa.ladders import MOOFA
    >>> from sdk.prepare.moofa.space import uniform
    >>> peak_items(MOOFA, uniform(MOOFA, kernel=7, expansion=4, depth=4, resolution=224))
    696192
    """
    return max(items(ladder, subnet))


def utilisation(ladder: Ladder, subnet: Subnet) -> float:
    """Mean items over the peak: 1 where every layer needs the same memory."""
    held = list(items(ladder, subnet))
    return sum(held) / len(held) / max(held)


def published_widths(steps: int = 6) -> tuple[int, ...]:
    """Widths by the paper's equal-memory rule: stem, first block, then `steps` + 1 widths that the rule chains.

    Every stage halves the side. Its width makes the next stage's worst layer (the depthwise or the expanding one) hold as many items as this one's.

    >>> published_widths()
    (3, 8, 24, 96, 288, 360, 384, 392, 392)
    """
    channels, side = REFERENCE["channels"], float(REFERENCE["side"])
    found = [STEM, FIRST, channels]
    for _ in range(steps):
        channels = next_width(channels, side)
        found.append(channels)
        side /= 2
    return tuple(found)


def next_width(channels: int, side: float) -> int:
    """Width of the stage behind one of `channels` at `side`, by the equal-memory rule.

    The root of the depthwise equation is the published code's, `2c(H^2 + 49)`, where its own memory model has `c(2H^2 + 49)`; rounding hides it.
    """
    e, window, area = REFERENCE["expansion"], REFERENCE["kernel"] ** 2, side**2
    depthwise = 2 * e * channels * area + window * e * channels
    expand = (1 + e) * channels * area + e * channels**2
    target = max(depthwise, expand)
    slope = (1 + e) * area / 4
    by_expand = (math.sqrt(slope**2 + 4 * e * target) - slope) / (2 * e)
    by_depthwise = target / (e * (area / 2 + window))
    return divisible(min(by_depthwise, by_expand) if depthwise > expand else by_expand)
