"""Fronts of accuracy against cost: what is on them, as JSON, as a picture."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.errors import UsageError
from sdk.prepare.moofa.budget import Budget
from sdk.prepare.moofa.ladders import SMALL_MOOFA
from sdk.prepare.moofa.pareto import BRIEF, Point, front, to_json, trace
from sdk.prepare.moofa.pareto_html import front_html, front_svg, ticks
from sdk.prepare.moofa.predictor import fit
from sdk.prepare.moofa.space import from_json, largest, smallest
from tests.moofa_space import MadeUpAccuracy, MadeUpCost, MadeUpCosts, draws

NET = smallest(SMALL_MOOFA)


def point(accuracy: float, arena: int, measured: bool = True) -> Point:
    return Point(NET, accuracy, MadeUpCost(arena, 1, 1, 1.0), measured, 0.0 if measured else 0.01)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_the_front_is_what_no_other_point_beats(pairs):
    points = [point(a / 10, c) for a, c in pairs]
    kept = {(p.accuracy, p.cost.arena_bytes) for p in front(points)}
    beaten = {(a / 10, c) for a, c in pairs if any((b >= a and d <= c) and (b, d) != (a, c) for b, d in pairs)}
    assert kept == {(a / 10, c) for a, c in pairs} - beaten
    arenas = [p.cost.arena_bytes for p in front(points)]
    assert arenas == sorted(set(arenas))


def test_a_front_over_another_cost_and_one_that_there_is_not():
    cheap, good = replace(point(0.5, 9), cost=MadeUpCost(9, 1, 5, 1.0)), replace(point(0.6, 8), cost=MadeUpCost(8, 1, 7, 1.0))
    assert front([cheap, good]) == (good,)
    assert front([cheap, good], "macs") == (cheap, good)
    with pytest.raises(UsageError, match="a front over 'ram' is not possible; choose a cost: arena_bytes, flash_bytes"):
        front([cheap], "ram")


def test_the_traced_front_keeps_its_limits_and_rises():
    costs, nets = MadeUpCosts(SMALL_MOOFA), draws(SMALL_MOOFA, 80, 1)
    made = fit(SMALL_MOOFA, nets, MadeUpAccuracy(SMALL_MOOFA, 0.002).many(nets))
    within = Budget(macs=costs(largest(SMALL_MOOFA)).macs * 0.6)
    traced = trace(SMALL_MOOFA, made, costs, steps=6, within=within, settings=replace(BRIEF, population=4, rounds=1, exchanges=0))
    scores = list(made.score([p.subnet for p in traced]))
    assert scores == sorted(scores) and 2 <= len(traced) <= 6
    assert all(within.allows(p.cost) and not p.measured and p.deviation > 0 for p in traced)
    assert traced[0].cost.arena_bytes == costs(NET).arena_bytes


def test_json_holds_every_point_and_the_front():
    points = [point(0.5, 100), point(0.4, 200), point(0.7, 300, measured=False)]
    made = json.loads(json.dumps(to_json(points)))
    assert [p["accuracy"] for p in made["front"]] == [0.5, 0.7] and len(made["points"]) == 3
    assert made["front"][0]["arena_bytes"] == 100 and made["front"][0]["measured"] is True
    assert made["front"][1]["deviation"] == 0.01
    assert "training_bytes" not in made["front"][0], "what was not computed is not told"
    assert from_json(SMALL_MOOFA, made["front"][0]["subnet"]) == NET


def test_the_picture_is_sound_and_everything_lies_in_it():
    points = [point(0.5, 10_000), point(0.52, 12_000), point(0.6, 20_000, measured=False), point(0.58, 24_000)]
    svg = front_svg(points, budget=Budget(arena_bytes=21_000), chosen=points[1])
    root = ElementTree.fromstring(svg.replace("role=img", 'role="img"'))
    marks = [e for e in root.iter() if e.tag in ("circle", "rect")]
    assert len(marks) == 4
    assert all(64 <= float(e.get("cx", e.get("x"))) <= 976 and 18 <= float(e.get("cy", e.get("y"))) <= 384 for e in marks)
    circles = list(root.iter("circle"))
    assert float(circles[0].get("cx")) < float(circles[1].get("cx")) < float(circles[2].get("cx"))
    assert float(circles[0].get("cy")) > float(circles[1].get("cy")) > float(circles[2].get("cy")), "up is better"
    assert "budget" in svg and "50.00 % (measured); arena 10,000 bytes" in svg
    stairs = next(e for e in root.iter("path") if e.get("fill") == "none").get("d")
    assert len(re.findall("[HV]", stairs)) == 4, "three points are on the front"
    assert "budget" not in front_svg(points, budget=Budget(arena_bytes=10**9))


def test_the_page_needs_nothing_else_and_is_the_same_each_time():
    points = [point(0.5, 10_000), point(0.6, 20_000, measured=False)]
    page = front_html("small & <fast>", points, budget=Budget(arena_bytes=21_000), chosen=points[0])
    assert page == front_html("small & <fast>", points, budget=Budget(arena_bytes=21_000), chosen=points[0])
    assert "small &amp; &lt;fast&gt;" in page and "Budget: arena 21,000 bytes." in page
    assert not re.search(r"https?://|<script|<link|@import|src=", page)
    assert page.count("<tr") == 3 and "predicted, ± 1.0" in page


def test_one_point_alone_can_be_drawn():
    ElementTree.fromstring(front_svg([point(0.5, 100)]).replace("role=img", 'role="img"'))


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_ticks_hold_the_range_in_equal_round_steps(a, b):
    low, high = min(a, b), max(a, b)
    made = ticks(low, high)
    assert made[0] <= low + 1e-9 and made[-1] >= high - 1e-6 * max(high, 1) and 2 <= len(made) <= 14
    assert all(d == pytest.approx(made[1] - made[0], rel=1e-4) for d in (y - x for x, y in itertools.pairwise(made)))
