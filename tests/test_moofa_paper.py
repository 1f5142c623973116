"""The paper's memory model and its rule of widths, against the figures that were published."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from sdk.prepare.moofa.ladders import LADDERS, MOOFA, OFA
from sdk.prepare.moofa.paper import block_items, next_width, peak_items, published_widths, utilisation
from sdk.prepare.moofa.space import blocks, largest, sample, uniform

#: (ladder, resolution, expansion) with kernel 7 and depth 4 -> peak items, as the paper's code counts them.
PEAKS = {
    ("ofa", 128, 3): 262_912, ("ofa", 160, 3): 410_368, ("ofa", 192, 3): 590_592, ("ofa", 224, 6): 1_509_984,
    ("moofa", 128, 2): 299_520, ("moofa", 160, 2): 305_280, ("moofa", 224, 2): 385_728, ("moofa", 224, 4): 696_192,
}  # fmt: skip


def test_the_rule_gives_the_published_widths():
    assert published_widths() == (3, 8, 24, 96, 288, 360, 384, 392, 392)


def test_the_published_ladder_has_them():
    assert (MOOFA.stem, MOOFA.first, *MOOFA.stages, MOOFA.final, MOOFA.feature) == published_widths()


@pytest.mark.parametrize("case", PEAKS, ids=lambda case: "-".join(map(str, case)))
def test_peaks_are_the_published_ones(case):
    name, resolution, expansion = case
    assert peak_items(LADDERS[name], uniform(LADDERS[name], 7, expansion, 4, resolution)) == PEAKS[case]


def test_the_equal_memory_ladder_uses_its_peak_better():
    """Mean over peak of the largest nets at 224: 0.66 against 0.23 to 0.25 for once-for-all."""
    assert utilisation(MOOFA, largest(MOOFA)) == pytest.approx(0.656, abs=5e-4)
    found = [utilisation(OFA, uniform(OFA, 7, expansion, 4, 224)) for expansion in OFA.expansions]
    assert min(found) >= 0.2285 and max(found) < 0.2495


def test_the_first_block_has_no_expansion_and_its_shortcut_only_with_equal_widths():
    ofa, moofa = (blocks(ladder, largest(ladder))[0] for ladder in (OFA, MOOFA))
    assert len(block_items(ofa)) == len(block_items(moofa)) == 2
    assert ofa.residual and not moofa.residual
    assert block_items(ofa)[0] == 3 * 16 * 112**2 + 16 * 9


def test_a_larger_choice_never_needs_fewer_items():
    random = Random(5)
    for ladder in LADDERS.values():
        top = peak_items(ladder, largest(ladder))
        assert all(peak_items(ladder, sample(ladder, random)) <= top for _ in range(50))


def test_the_published_root_and_the_models_own_round_alike():
    """`c(2H^2 + 49)` in place of the code's `2c(H^2 + 49)` changes no width of the chain."""
    widths, side = published_widths()[2:], 56.0
    for before, after in pairwise(widths):
        assert next_width(before, side) == after
        depthwise, expand = 8 * before * side**2 + 196 * before, 5 * before * side**2 + 4 * before**2
        if depthwise > expand:
            own = before * (2 * side**2 + 49) / (side**2 / 2 + 49)
            assert own >= after or round(own / 8) * 8 == after
        side /= 2
