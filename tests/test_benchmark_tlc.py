"""What the benchmark of collapsed nets computes, on made-up pictures; its figures are not judged."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import tlc, tlc_plot
from benchmarks.rows import Row, to_json
from tests.data import shared


def rows_of(case: str, **values: float) -> list[Row]:
    return [Row(case, metric, value, tlc.UNITS[metric], "lower") for metric, value in values.items()]


def test_held_out_pictures_are_none_of_those_trained_on():
    x = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1) * np.ones((1, 32, 32, 3), np.uint8)
    given = tlc.Pictures(x, np.arange(30), x[:2], np.arange(2))
    train_x, train_y, held_x, held_y = given.data(10)
    assert train_x.shape == (20, 3, 32, 32)
    assert sorted([*train_y, *held_y]) == list(range(30))
    assert len(given.data(10, 5)[0]) == 5
    assert all(int(picture[0, 0, 0]) == label for picture, label in zip(train_x, train_y, strict=True))
    assert all(int(picture[0, 0, 0]) == label for picture, label in zip(held_x, held_y, strict=True))


def test_every_case_is_a_net_with_options_that_exist():
    from sdk.prepare.tlc.records import Settings, budget_of

    for case in tlc.CASES.values():
        assert case.net in tlc.small_nets.NETS
        assert budget_of(case.budget) is not None
        Settings(**case.options)


def test_the_chart_shows_whole_cases_only_and_is_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    whole = rows_of("net/3", instructions_ratio=0.7, latency_ratio=0.8, peak_ram_ratio=1.0, activations_removed=3.0, accuracy_drop_points=0.5)
    part = rows_of("net/8 or random", accuracy=0.7)
    assert list(tlc_plot.by_case([*whole, *part])) == ["net/3"]
    assert tlc_plot.label("net/3", tlc_plot.by_case(whole)["net/3"]) == "net: 3 activations gone, -0.5 points"
    for name in ("a.svg", "b.svg"):
        tlc_plot.chart([*whole, *part], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.long
def test_a_case_gives_every_metric(monkeypatch):
    folder = shared("cifar10")
    case = dataclasses.replace(tlc.CASES["mobilenetv2_035/10"], budget={"removed": 2}, options={"epochs": 0, "score_samples": 32, "refit_samples": 64})
    monkeypatch.setitem(tlc.CASES, "small", case)
    monkeypatch.setattr(tlc, "QUICK", 150)
    given = tlc.pictures(folder, quick=True)
    given = dataclasses.replace(given, test_x=given.test_x[:200], test_y=given.test_y[:200])
    rows = {row.metric: row for row in tlc.measure("small", given, lambda _: None)}
    assert set(rows) >= {"accuracy", "accuracy_drop_points", "latency_ratio", "peak_ram_ratio", "arena_bytes", "macs", "instructions_ratio"}
    assert rows["accuracy"].peers["dense"] - rows["accuracy"].value == pytest.approx(rows["accuracy_drop_points"].value / 100, abs=1e-6)
    assert 0 < rows["instructions_ratio"].value <= 1
    assert json.loads(to_json(list(rows.values())))
