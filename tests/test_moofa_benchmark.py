"""The benchmark of the small supernets: what it computes from what it measured."""

from __future__ import annotations

import json

from benchmarks import moofa
from benchmarks.rows import Row


def test_ratios_are_to_the_other_ladder_at_the_same_budget():
    values = {"accuracy": 0.7, "instructions": 300.0, "arena_bytes": 8000.0}
    ours = [moofa.row("small-moofa@stm32f746/10KiB", metric, value) for metric, value in values.items()]
    other = [moofa.row("small-ofa@stm32f746/10KiB", "instructions", 200.0), moofa.row("small-ofa@stm32f746/16KiB", "arena_bytes", 4000.0)]
    assert list(moofa.ratios(ours, other)) == [Row("small-moofa@stm32f746/10KiB", "instructions_ratio", 1.5, "fraction", "lower")]
    assert list(moofa.ratios([moofa.row("small-moofa@stm32f746/0", "arena_bytes", 9.0)], [moofa.row("small-ofa@stm32f746/0", "arena_bytes", 8.0)])) == []
    assert list(moofa.ratios(other, ours)) == []  # MobileNet's is what the other is compared with


def test_units_and_directions_follow_the_metric():
    assert moofa.row("a", "arena_bytes", 1).unit == "bytes" and moofa.row("a", "gap_to_random_points", 1).unit == "points"
    assert moofa.row("a", "accuracy", 1).better == "higher" and moofa.row("a", "macs", 1).better == "lower"


def test_facts_are_written_with_a_line_for_each_measurement():
    facts = {"task": "t", "log": ["one", "two"], "measured": [{"subnet": {"depths": [1]}, "accuracy": 0.5}] * 3}
    text = moofa.compact(facts)
    assert json.loads(text) == facts and len(text.splitlines()) == 12
    assert json.loads(moofa.compact({"task": "t"})) == {"task": "t"}
