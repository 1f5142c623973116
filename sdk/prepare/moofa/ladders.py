"""Ladders of widths by name: the two that were published for 224-pixel pictures, and the two of the shipped supernets for 32-pixel ones."""

from __future__ import annotations

from dataclasses import replace

from sdk.prepare.moofa.space import Ladder

#: MobileNetV3-Large as Once-for-All made it elastic (arXiv 1908.09791; widths, strides, activations as in its published code). Its space has
#: expansions 3, 4, 6.
OFA = Ladder(
    "ofa", stem=16, first=16, stages=(24, 40, 80, 112, 160), final=960, feature=1280, strides=(2, 2, 2, 2, 1, 2),
    activations=("relu", "relu", "relu", "hswish", "hswish", "hswish"), squeeze=(False, False, True, False, True, True), expansions=(3, 4, 6),
)  # fmt: skip

#: The memory-equalised ladder of arXiv 2409.05900: widths by `paper.published_widths()`, the rest as in its published code.
MOOFA = Ladder(
    "moofa", stem=3, first=8, stages=(24, 96, 288, 360, 384), final=392, feature=392, strides=(2, 2, 2, 2, 2, 2),
    activations=("relu", "hswish", "hswish", "hswish", "relu", "hswish"), squeeze=(False, False, True, True, False, True),
)  # fmt: skip

#: Once-for-All's first four stages at half their widths, for 32-pixel pictures: the stem keeps the picture's size, the last 1x1 layer keeps
#: its proportion to the last stage (6), and the layer behind the pool, which a thousand classes asked for, is left out.
SMALL_OFA = Ladder(
    "small-ofa", stem=8, first=8, stages=(16, 24, 40, 56), final=336, feature=0, strides=(1, 2, 2, 2, 1),
    activations=("relu", "relu", "relu", "hswish", "hswish"), squeeze=(False, False, True, False, True), depths=(1, 2, 3), resolutions=(24, 28, 32),
)  # fmt: skip

#: What the widths of SMALL_MOOFA are solved for: a board, as much of its RAM as the largest net on MobileNet's widths takes, and its flash but for
#: 64 KiB that are left to the application. 32 KiB, tried before, held the first block to 4 channels, half of the flash the late stages to 40; on
#: both MobileNet's widths were ahead at the same RAM.
SMALL_DEVICE, SMALL_RAM_BYTES, SMALL_FLASH_BYTES = "stm32f746", 36 * 1024, 960 * 1024

#: The equal-memory ladder for 32-pixel pictures: `widths(SMALL_DEVICE, 32, like=SMALL_OFA, ram_bytes=..., flash_bytes=...)`. All but the
#: widths is SMALL_OFA's, so that the two can be compared.
SMALL_MOOFA = replace(SMALL_OFA, name="small-moofa", first=8, stages=(16, 64, 64, 64), final=384)

LADDERS: dict[str, Ladder] = {ladder.name: ladder for ladder in (OFA, MOOFA, SMALL_OFA, SMALL_MOOFA)}
