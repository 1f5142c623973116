"""The search from end to end: what is measured and why, what is chosen, that it is what it says, and every wrong wish."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

import sdk
from sdk.errors import DataError, DoesNotFit, UsageError
from sdk.prepare.moofa import find as find_module
from sdk.prepare.moofa.budget import Budget
from sdk.prepare.moofa.devices import pricing, within, work
from sdk.prepare.moofa.draw import balanced, leaning
from sdk.prepare.moofa.find import Effort, Machines, Progress, divided, find
from sdk.prepare.moofa.ladders import MOOFA, OFA, SMALL_MOOFA
from sdk.prepare.moofa.nn import measure as measure_module
from sdk.prepare.moofa.nn.measure import Bench
from sdk.prepare.moofa.search import Evolution, random_search
from sdk.prepare.moofa.space import Ladder, check, from_json, largest, smallest
from targets.device import load_device
from tests.moofa_space import MadeUpAccuracy, MadeUpCosts, macs
from tests.test_moofa_jobs import cluster

LITTLE = Ladder(
    "little", stem=8, first=8, stages=(16, 24), final=48, feature=0, strides=(2, 2, 2), activations=("relu", "relu", "hswish"), squeeze=(False,) * 3,
    kernels=(3, 5), expansions=(2, 4), depths=(1, 2), resolutions=(16, 24),
)  # fmt: skip
QUICK = Effort(measure=20, rounds=2, finalists=2, front=2, draws=150, evolution=Evolution(population=8, rounds=3, exchanges=2))


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 24, 24, 3), np.uint8), random.integers(0, 4, count)


@pytest.fixture(scope="module")
def net():
    return sdk.moofa.supernet(LITTLE, 4, seed=3)


@pytest.fixture
def made_up(monkeypatch, net):
    """Accuracies by a formula instead of a network; the number of measurements in a list."""
    accuracy, asked = MadeUpAccuracy(LITTLE, noise=0.002), []

    def measure(bench: Bench, subnet: dict) -> dict:
        asked.append(subnet)
        return {"accuracy": accuracy(from_json(LITTLE, subnet))}

    monkeypatch.setattr(measure_module, "measure", measure)
    return accuracy, asked


def test_what_is_judged_answers_as_the_subnet_does(net):
    module = Bench(net, pictures(64)[0], *pictures(32, 1)).module(largest(LITTLE))
    quick = measure_module.folded(module)
    x = torch.rand(8, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(quick(x), module(x), rtol=1e-4, atol=1e-5)
    kinds = Counter(type(part) for part in quick.modules())
    assert not kinds[torch.nn.BatchNorm2d] and any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())


def test_the_found_subnet_is_what_the_result_says(net, tmp_path):
    x, y = pictures(120)
    found = sdk.moofa.search(net, "stm32f746", {"arena_bytes": "4KiB", "latency_ms": 5}, (x, y), effort=QUICK, log=tmp_path)
    assert found.cost.arena_bytes <= 4096 and found.cost.latency_ms <= 5
    # the module computes the accuracy that was measured, with statistics from pictures that do not judge
    statistics, judge, labels = divided((x, y))
    inputs = measure_module.batches(judge, found.subnet.resolution)
    with torch.no_grad():
        answers = torch.cat([found.module(batch).argmax(1) for batch in inputs]).numpy()
    assert found.accuracy == (answers == labels).mean()
    assert len(statistics) + len(judge) == 120
    # and its plan, as of any model, is the cost that was told
    side = found.subnet.resolution
    seen = np.random.default_rng(0).random((8, side, side, 3), np.float32)
    plan = sdk.plan("stm32f746", found.model(), calibration=seen)
    assert sum(plan.arena_bytes) == found.cost.arena_bytes == sum(found.plan.arena_bytes)
    assert plan.cost.macs == found.cost.macs
    record = json.loads((tmp_path / "search.json").read_text())
    assert from_json(LITTLE, record["chosen"]["subnet"]) == found.subnet and len(record["measured"]) == len(found.measured)
    assert record["budget"] == {"arena_bytes": 4096, "flash_bytes": found.budget.flash_bytes, "latency_ms": 5}
    assert "little on stm32f746" in (tmp_path / "front.html").read_text()
    assert "little on stm32f746, budget: arena 4,096 bytes" in str(found) and f"{len(found.measured)} subnets measured" in str(found)


def test_what_is_measured_where_and_that_it_pays(net, made_up):
    accuracy, asked = made_up
    budget, told = Budget(arena_bytes=4096), []
    found = sdk.moofa.search(net, "stm32f746", budget, pictures(60), effort=QUICK, report=told.append)
    stages = Counter(m.stage for m in found.measured)
    assert stages["spread"] == 12 and stages["picked"] == 8 and stages["front"] <= 2 and 1 <= stages["finalist"] <= 2
    assert len(asked) == len(found.measured) == len({m.subnet.key(LITTLE) for m in found.measured})
    assert all((m.predicted is None) == (m.stage == "spread") for m in found.measured)
    assert all(budget.allows(m.cost) for m in found.measured if m.stage in ("picked", "finalist"))
    allowed = [m.accuracy for m in found.measured if budget.allows(m.cost)]
    assert found.accuracy == max(allowed)
    costs = pricing(load_device("stm32f746"), LITTLE, 4, budget)
    chance = random_search(LITTLE, accuracy.many, costs, budget, 300)
    assert found.accuracy >= chance.score - 0.003, "as good as 300 measured at random"
    assert [p.done for p in told] == list(range(1, len(asked) + 1)) and told[-1].total >= told[-1].done
    assert [p.stage for p in told][:12] == ["spread"] * 12 and told[-1].seconds_left >= 0
    assert [p.accuracy for p in found.front] == sorted(p.accuracy for p in found.front)


def test_a_search_that_was_stopped_goes_on_and_another_budget_begins_with_what_is_known(net, made_up, tmp_path, monkeypatch):
    _, asked = made_up
    measure = measure_module.measure

    def stopping(bench: Bench, subnet: dict) -> dict:
        if len(asked) == 7:
            raise KeyboardInterrupt
        return measure(bench, subnet)

    data = pictures(60)
    monkeypatch.setattr(measure_module, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        sdk.moofa.search(net, "stm32f746", 4096, data, effort=QUICK, cache=tmp_path)
    monkeypatch.setattr(measure_module, "measure", measure)
    found = sdk.moofa.search(net, "stm32f746", 4096, data, effort=QUICK, cache=tmp_path)
    assert len(asked) == len(found.measured), "nothing was measured twice"
    again = sdk.moofa.search(net, "stm32f746", 4096, data, effort=QUICK, cache=tmp_path)
    assert len(asked) == len(found.measured) and again.measured == found.measured
    other = sdk.moofa.search(net, "stm32f746", 3000, data, effort=QUICK, cache=tmp_path)
    assert len(asked) - len(found.measured) <= len(other.measured) - 12, "the twelve that spread over the space are known"


@pytest.mark.long
def test_two_processes_measure_the_same(net):
    x, y = pictures(40)
    bench = Bench(net, x[:10], x[10:], y[10:], threads=1)
    few, nets = bench.jobs([smallest(LITTLE), largest(LITTLE)]), [smallest(LITTLE), largest(LITTLE)]
    alone = find_module.jobs.run(measure_module.measure, bench, few)
    both = find_module.jobs.run(measure_module.measure, bench, few, workers=2)
    assert [r["accuracy"] for r in alone] == [r["accuracy"] for r in both]
    assert [job.argument for job in few] == [n.to_json() for n in nets]


def test_a_measurements_name_changes_with_all_it_depends_on_and_with_nothing_else(net):
    x, y = pictures(40)
    bench, small = Bench(net, x[:10], x[10:], y[10:]), [smallest(LITTLE)]
    key = bench.jobs(small)[0].key
    assert bench.jobs([replace(small[0], kernels=(3, 5, 3, 5))])[0].key == key, "unused slots do not count"
    assert replace(bench, threads=1).jobs(small)[0].key == key
    other = sdk.moofa.supernet(LITTLE, 4, seed=3)
    next(m for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_mean += 1
    assert replace(bench, supernet=other).jobs(small)[0].key == key, "statistics are estimated anew"
    next(other.parameters()).data[0] += 1e-3
    wrong = y[10:].copy()
    wrong[0] = (wrong[0] + 1) % 4
    for changed in (replace(bench, supernet=other), replace(bench, x=x[9:39]), replace(bench, y=wrong), replace(bench, statistics=x[:9])):
        assert changed.jobs(small)[0].key != key
    assert bench.jobs([largest(LITTLE)])[0].key != key


def test_the_best_whose_whole_plan_does_not_fit_is_passed_over(net, made_up):
    refused = []

    class Planned(MadeUpCosts):
        def plan(self, subnet):
            fits = bool(refused)
            refused.append(subnet)
            return type("Plan", (), {"fits": fits, "arena_bytes": (100,)})

    x, y = pictures(40)
    bench, budget, costs = Bench(net, x[:10], x[10:], y[10:]), Budget(macs=float(macs(LITTLE, largest(LITTLE)))), Planned(LITTLE)
    found = find(bench, load_device("stm32f746"), costs, budget, QUICK, Machines())
    ranked = sorted((m for m in found.measured if budget.allows(m.cost)), key=lambda m: -m.accuracy)
    assert refused == [ranked[0].subnet, ranked[1].subnet] and found.chosen == ranked[1]
    costs.plan = lambda subnet: type("Plan", (), {"fits": False})
    with pytest.raises(DoesNotFit, match=r"no measured subnet of little keeps work [\d,]+ MACs when it is planned whole"):
        find(bench, load_device("stm32f746"), costs, budget, QUICK, Machines())


def test_a_budget_that_nothing_meets_is_answered_before_anything_is_measured(net, made_up):
    _, asked = made_up
    with pytest.raises(DoesNotFit, match=r"no subnet of little fits arena 500 bytes: the smallest needs arena .* give a budget of at least arena_bytes="):
        sdk.moofa.search(net, "stm32f746", 500, pictures(40), effort=QUICK)
    assert not asked


def test_the_front_is_over_what_the_user_limits(net, made_up):
    effort = replace(QUICK, measure=8, front=3)
    found = sdk.moofa.search(net, "stm32f746", {"latency_ms": 4}, pictures(40), effort=effort)
    assert found.over == "latency_ms" and found.cost.latency_ms <= 4 and found.budget.arena_bytes > 100_000
    latencies = [p.cost.latency_ms for p in found.front]
    assert latencies == sorted(latencies) and len(latencies) >= 2
    assert sdk.moofa.search(net, "stm32f746", None, pictures(40), effort=effort).over == "arena_bytes"


def test_on_a_computer_work_is_the_budget(net, made_up):
    limit = 0.6 * work(LITTLE, largest(LITTLE)).macs
    found = sdk.moofa.search(net, "rpi-4b", {"macs": limit}, pictures(40), effort=QUICK)
    assert found.cost.macs <= limit and found.plan is None and found.over == "macs"
    with pytest.raises(UsageError, match=r"rpi-4b is a computer.*give macs= instead of arena_bytes="):
        sdk.moofa.search(net, "rpi-4b", "64KiB", pictures(40))
    with pytest.raises(UsageError, match="rpi-4b is a computer with room for any subnet; give a budget of work: macs="):
        sdk.moofa.search(net, "rpi-4b", None, pictures(40))


def test_work_on_a_computer_is_the_planners_but_for_squeeze_pool_and_classifier():
    costs = pricing(load_device("stm32f746"), LITTLE, 4, Budget(macs=1e9))
    for subnet in (smallest(LITTLE), largest(LITTLE)):
        assert 0 <= costs(subnet).macs - work(LITTLE, subnet).macs <= 48 * (4 + 3 * 3)


def test_a_board_lends_no_more_than_it_has():
    board = load_device("stm32f746")
    whole = within(board, None)
    assert 200 * 1024 < whole.arena_bytes < 340 * 1024 and 0 < whole.flash_bytes <= 1024 * 1024
    assert within(board, 10**9) == whole
    assert within(board, {"latency_ms": 3}) == replace(whole, latency_ms=3)
    assert within(board, "16KiB") == replace(whole, arena_bytes=16384)


def test_training_memory_is_priced_where_the_budget_limits_it():
    board, budget = load_device("stm32f746"), Budget(training_bytes=10**6)
    assert pricing(board, LITTLE, 4, budget)(smallest(LITTLE)).training_bytes > 0
    assert not pricing(board, LITTLE, 4, Budget(arena_bytes=10**6))(smallest(LITTLE)).training_bytes


@pytest.mark.parametrize("ladder", [OFA, MOOFA, SMALL_MOOFA], ids=lambda ladder: ladder.name)
def test_first_subnets_spread_evenly_over_cost_and_few_are_the_first_of_many(ladder):
    costs = MadeUpCosts(ladder)
    nets = balanced(ladder, costs, 60, "macs", draws=800)
    assert nets[:2] == [smallest(ladder), largest(ladder)]
    assert len({check(ladder, net).key(ladder) for net in nets}) == 60
    assert balanced(ladder, costs, 20, "macs", draws=800) == nets[:20]
    values = np.array([costs(net).macs for net in nets])
    counts, _ = np.histogram(values, bins=5, range=(values.min(), values.max()))
    assert counts.min() >= 6, f"a fifth of the range holds {counts} of 60"


def test_leaning_draws_reach_both_ends():
    random = Random(0)
    sizes = [sum(leaning(SMALL_MOOFA, random).expansions) for _ in range(300)]
    least, most = (sum(end.expansions) for end in (smallest(SMALL_MOOFA), largest(SMALL_MOOFA)))
    assert min(sizes) < least + 0.1 * (most - least) and max(sizes) > most - 0.1 * (most - least)


def test_data_of_two_and_of_four_arrays():
    x, y = pictures(100)
    statistics, judge, labels = divided((x, y))
    assert len(statistics) == 20 and len(judge) == len(labels) == 80
    assert {p.tobytes() for p in statistics} | {p.tobytes() for p in judge} == {p.tobytes() for p in x}
    assert all(y[[p.tobytes() for p in x].index(j.tobytes())] == label for j, label in zip(judge, labels, strict=True))
    statistics, judge, labels = divided((x[:50], y[:50], x[50:], y[50:, None]))
    assert (statistics == x[:50]).all() and (judge == x[50:]).all() and (labels == y[50:]).all()


def test_wrong_wishes_and_wrong_data_are_refused(net, tmp_path):
    x, y = pictures(40)
    for data, sentence in (
        (x, r"needs data=\(pictures, labels\)"),
        ((x, y[:39]), "40 pictures and 39 labels are not enough or do not belong together"),
        ((x[:4], y[:4]), "4 pictures and 4 labels"),
        ((x.astype(np.float32), y), "pictures must be uint8"),
        ((x, y + 1), "a label is 4 and the supernet knows 4 classes, 0 to 3"),
        ((x, y.astype(float)), "labels must be 32 integers"),
    ):
        with pytest.raises(DataError, match=sentence):
            sdk.moofa.search(net, "stm32f746", 4096, data)
    with pytest.raises(UsageError, match="a search needs a supernet and got a Linear"):
        sdk.moofa.search(torch.nn.Linear(2, 2), "stm32f746", 4096, (x, y))
    with pytest.raises(UsageError, match="a search of 3 subnets"):
        sdk.moofa.search(net, "stm32f746", 4096, (x, y), measure=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the search cannot be written to .*file/log"):
        sdk.moofa.search(net, "stm32f746", 4096, (x, y), log=tmp_path / "file" / "log")
    with pytest.raises(UsageError, match="0 subnets cannot be drawn"):
        balanced(LITTLE, MadeUpCosts(LITTLE), 0)


def test_a_supernet_is_new_or_saved(net, tmp_path):
    sdk.moofa.save(net, tmp_path / "mine", note="random")
    loaded = sdk.moofa.supernet(tmp_path / "mine")
    assert loaded.ladder == LITTLE and loaded.classes == 4
    assert torch.allclose(next(loaded.parameters()), next(net.parameters()), atol=1e-3)


def test_progress_is_told_in_words():
    nan = float("nan")
    assert str(Progress("spread", 0, 163, nan, nan)) == "spread: 0 of 163 measured"
    assert str(Progress("picked", 100, 163, 0.8712, 300)) == "picked: 100 of 163 measured, best 87.12 %, 5 min left"
    assert str(Progress("finalist", 163, 163, 0.8712, 0)) == "finalist: 163 of 163 measured, best 87.12 %"


@pytest.mark.long
def test_a_search_on_a_dask_cluster_finds_the_same(net, tmp_path):
    pytest.importorskip("distributed", reason='needs distributed (pip install "embarq[dask]")')
    data, effort = pictures(40), replace(QUICK, measure=10, front=0)
    process, address = cluster(tmp_path, 1)
    try:
        there = sdk.moofa.search(net, "stm32f746", 4096, data, effort=effort, dask=address)
    finally:
        process.kill()
        process.communicate()
    here = sdk.moofa.search(net, "stm32f746", 4096, data, effort=effort)
    assert there.measured == here.measured and there.subnet == here.subnet
