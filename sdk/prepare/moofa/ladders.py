"""Ladders of widths by name: the two that were published for 224-pixel pictures, and the two of the shipped supernets for 32-pixel ones."""

from __future__ import annotations

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

LADDERS: dict[str, Ladder] = {ladder.name: ladder for ladder in (OFA, MOOFA)}
