"""Plans of training on a Linux device: what is kept is predicted to the byte, budgets hold, a refusal says what would fit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

import sdk
from sdk.errors import DataError, DoesNotFit, UsageError
from sdk.planner.training import kept, workspace
from sdk.planner.training.choose import peak_of
from sdk.planner.training.make import Case, make_training_plan
from sdk.planner.training.options import AUTO, Setting, layer_options
from sdk.planner.training.predict import predict_saved_bytes, predict_step
from sdk.planner.training.recomputed import joints
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.planner.training.walk import walk_of
from targets.device import load_device

torch = pytest.importorskip("torch")
from tests import training_peaks as peaks  # noqa: E402

NETS = ("mobile", "plain", "residual")


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("method", "layers", "factors"), [
    ("exact", 1, "float32"), ("exact", 4, "float32"), ("exact", 99, "float32"), ("bias", 99, "float32"), ("fixed", 99, "float32"), ("fixed", 5, "int8"),
    ("fixed", 99, "float16"), ("asi", 99, "float32"), ("asi", 6, "int8"), ("adapter", 99, "float32"),
    ("channels", 99, "float32"), ("channels", 6, "int8"), ("recompute", 99, "float32"), ("recompute", 4, "float32"),
])  # fmt: skip
def test_kept_bytes_are_what_the_meter_counts(net, method, layers, factors):
    from sdk.training.nn.trainer import Trainer

    for batch in (4, 12):
        chosen = peaks.choices(net, 32, method, layers, factors)
        made = Trainer(peaks.program(net, 32), chosen, peaks.calibration(net, 32), Training(batch=batch))
        made.step(*peaks.data(32, batch))
        records = peaks.calibration(net, 32).records
        predicted = predict_saved_bytes(walk_of(peaks.program(net, 32)), records, chosen, batch)
        assert predicted == made.saved_bytes().batch
        assert sum(kept.constant_bytes(r, c) for r in records for c in chosen if c.layer == r.name) == made.saved_bytes().constants


def test_kept_bytes_of_a_transformer_are_what_the_meter_counts():
    """Queries, keys and values come out of one `unbind`, a tuple, which must not hide them."""
    from benchmarks import linux_nets
    from sdk.planner.training.records import Choice
    from sdk.training.nn.program import read_program
    from sdk.training.nn.trainer import Trainer

    net = read_program(linux_nets.SMALL["vit_tiny"].module(), torch.zeros(2, 3, 32, 32))
    walk = walk_of(net)
    assert walk.complete
    for count in (1, 5, len(net.layers)):
        chosen = [Choice(record.name) for record in net.layers[-count:]]
        made = Trainer(net, chosen, None, Training(batch=4))
        made.step(torch.randn(4, 3, 32, 32), torch.arange(4))
        assert predict_saved_bytes(walk, net.layers, chosen, 4) == made.saved_bytes().batch


@pytest.mark.parametrize("net", NETS)
def test_kept_bytes_of_mixed_choices_are_what_the_meter_counts(net):
    """Wherever training starts, in a block or at its edge, and whatever the other layers of a block do."""
    from sdk.training.nn.trainer import Trainer

    found, rng = peaks.program(net, 32), np.random.default_rng(5)
    ways = [peaks.choices(net, 32, method, 99) for method in ("exact", "fixed", "channels", "recompute", "bias")]
    for _ in range(8):
        picked = [(None, *row)[rng.integers(6)] for row in zip(*ways, strict=True)]
        chosen = [c for c in picked if c is not None] or [ways[3][-1]]
        made = Trainer(found, chosen, peaks.calibration(net, 32), Training(batch=4))
        made.step(*peaks.data(32, 4))
        assert predict_saved_bytes(walk_of(found), found.layers, chosen, 4) == made.saved_bytes().batch


@pytest.mark.parametrize("net", NETS)
def test_blocks_that_are_offered_are_those_that_the_trainer_recomputes(net):
    from sdk.planner.training.blocks import offered
    from sdk.training.nn.recompute import blocks
    from sdk.training.nn.sections import live_steps

    found = peaks.program(net, 32)
    names = list(found.by_name)
    for block in offered(walk_of(found)):
        inside = tuple(names[i] for i in block.layers)
        for start in range(block.layers[0] + 1) if block.inner else [block.layers[0]]:
            if start < block.layers[0] or block.first:
                there = {b.layers: b.inputs for b in blocks(found, live_steps(found, {names[start], *inside}))}
                assert there.get(inside) == (block.inner if start < block.layers[0] else block.first).inputs


@pytest.mark.parametrize("method", ["hosvd", "svd"])
def test_what_each_batch_decides_is_expected_from_what_calibration_batches_took(method, tmp_path):
    """Batches of the kind that was calibrated on: the mean of what they keep is told to a tenth, and lies in the spread that is told."""
    from sdk.training.nn.calibrate import calibrate
    from sdk.training.nn.calibration import Calibration
    from sdk.training.nn.trainer import Trainer

    program = peaks.program("plain", 32)
    names = [record.name for record in program.layers[-4:]]
    x, y = peaks.data(32, 64, seed=1)
    known = calibrate(program, list(zip(x.split(16), y.split(16), strict=True)), (0.8,), (method,), names)
    records, chosen = known.records, tuple(Choice(name, method, 0.8) for name in names)
    made = Trainer(program, chosen, None, Training(batch=16))
    held = []
    for seed in range(2, 6):
        made.step(*peaks.data(32, 16, seed=seed))
        held.append(made.saved_bytes().batch)
    for batch, samples in ((16, 16), (8, 8)):
        made = Trainer(program, chosen, None, Training(batch=batch))
        made.step(*peaks.data(32, samples, seed=7))
        predicted = predict_saved_bytes(walk_of(program), records, chosen, batch)
        measured = np.mean(held) if batch == 16 else made.saved_bytes().batch
        assert predicted == pytest.approx(measured, rel=0.1 if batch == 16 else 0.4)
    seen = [kept.bytes_by_batch(r, c, 16) for r in records for c in chosen if c.layer == r.name]
    assert all(len(batches) == 4 for batches in seen) and len({sum(b) for b in zip(*seen, strict=True)}) > 1
    assert sum(kept.input_bytes(r, c, 16) for r in records for c in chosen if c.layer == r.name) == pytest.approx(np.sum(np.mean(seen, 1)), abs=4)
    known.save(tmp_path / "calibration.npz")
    assert [r.batch_ranks for r in Calibration.load(tmp_path / "calibration.npz").records] == [r.batch_ranks for r in records]


@pytest.mark.parametrize("factors", ("float32", "int8"))
@pytest.mark.parametrize("method", ["hosvd", "svd"])
def test_a_plan_holds_hosvd_and_svd_to_the_ranks_that_calibration_batches_took(method, factors):
    from sdk.training.nn.calibrate import calibrate
    from sdk.training.nn.trainer import Trainer

    program = peaks.program("plain", 32)
    x, y = peaks.data(32, 64, seed=1)
    known = calibrate(program, list(zip(x.split(16), y.split(16), strict=True)), (0.8,), (method,))
    wish = Training(layers="last4", method=method, eps=0.8, batch=16, factors=factors)
    plan = make_training_plan(replace(case("plain"), records=known.records), wish)
    learning = [c for c in plan.choices if c.method == method]
    assert learning and all(any(c.ranks) for c in learning) and "held to the ranks" in " ".join(plan.decisions)
    made = Trainer(program, plan.choices, known, wish)
    for seed in range(2, 5):
        made.step(*peaks.data(32, 16, seed=seed))
        assert made.saved_bytes().batch == predict_saved_bytes(walk_of(program), known.records, plan.choices, 16)
    for record in known.records[-4:]:
        took = np.array([ranks[1] for ranks in record.batch_ranks[method, 0.8]])
        rank = kept.planned_ranks(record, method, 0.8, 16)[0]
        assert rank == 0 or took.min() <= rank <= took.max()
    without = make_training_plan(replace(case("plain"), records=tuple(replace(r, batch_ranks={}) for r in known.records)), wish) if method == "hosvd" else None
    assert without is None or "an expectation, not a bound" in " ".join(without.decisions)


def case(net: str = "mobile", memory: int = 1 << 30, **more) -> Case:
    from sdk.training.nn.calibrate import ranks_for

    found = peaks.program(net, 32)
    return Case(net, load_device("rpi-4b"), walk_of(found), peaks.calibration(net, 32).records, ranks_for, memory, 1000, **more)


GRID = (0.8,)


@pytest.fixture(autouse=True)
def one_eps(monkeypatch):
    """The shared calibration knows one eps."""
    monkeypatch.setattr("sdk.planner.training.make.EPS_GRID", GRID)


@pytest.mark.parametrize("net", NETS)
def test_a_walk_through_the_step_is_never_above_its_price(net):
    c = case(net)
    rng = np.random.default_rng(3)
    for batch in (4, 16):
        setting = Setting(c.walk, c.records, Training(batch=batch), c.rank_rule, batch, eps_grid=GRID)
        rows, together = layer_options(setting, None), joints(setting, None)
        assert together
        for _ in range(40):
            options = [row[rng.integers(len(row))] if rng.random() < 0.6 else row[0] for row in rows]
            start = next((i for i, o in enumerate(options) if o.trains), len(rows))
            for joint in together:
                if rng.random() < 0.4 and (joint.inner if joint.first > start else joint.starts and joint.end > start):
                    options[joint.first : joint.end], start = joint.options, min(start, joint.first)
            if not any(o.trains for o in options):
                continue
            choices = tuple(o.choice for o in options)
            pairs = list(zip(c.records, choices, strict=True))
            held = sum(kept.learning_bytes(r, x) * setting.held_copies + kept.constant_bytes(r, x) + kept.still_bytes(r, x) for r, x in pairs)
            price = peak_of(options, 0, setting.prefix_bytes, batch * (16 * c.walk.classes + 8))
            assert predict_step(setting, choices).peak_bytes + held <= price


def test_plans_keep_their_budget_and_gain_with_it():
    c = case()
    whole = make_training_plan(c, Training(method="exact", layers="all")).peak_bytes
    plans = [make_training_plan(c, Training(budget=int(whole * share))) for share in (0.1, 0.2, 0.4, 0.8, 2.0)]
    assert all(p.peak_bytes <= p.budget_bytes for p in plans if p.fits) and plans[-1].fits
    gains = [p.gain for p in plans if p.fits]
    # a larger part of the batch at once is worth a thousandth of the gain: fewer, faster passes
    assert all(b > a - 1e-3 for a, b in pairwise(gains)) and gains[-1] == pytest.approx(1.0)
    assert {row.choice.layer for row in plans[-1].layers} == {r.name for r in c.records}


@pytest.mark.parametrize(("net", "method"), [pytest.param("mobile", "recompute", marks=pytest.mark.long), ("residual", "channels")])
def test_a_budget_exists_where_recomputing_or_a_part_of_the_channels_gains_most(net, method, monkeypatch):
    from sdk.training.nn.trainer import Trainer

    c = case(net)
    whole = make_training_plan(c, Training(method="exact", layers="all")).peak_bytes
    for share in np.linspace(0.3, 1.0, 29):
        asked = Training(budget=int(whole * share), micro_batch=16)
        plan = make_training_plan(c, asked)
        if plan.fits and method in {x.method for x in plan.choices}:
            break
    assert method in {x.method for x in plan.choices} and plan.fits and plan.peak_bytes <= plan.budget_bytes
    made = Trainer(peaks.program(net, 32), plan.choices, peaks.calibration(net, 32), asked)
    made.step(*peaks.data(32, 16))
    assert predict_saved_bytes(c.walk, c.records, plan.choices, 16) == made.saved_bytes().batch
    monkeypatch.setattr("sdk.planner.training.make.AUTO", tuple(m for m in AUTO if m != method))
    assert make_training_plan(c, asked).gain < plan.gain
    assert any(word in " ".join(plan.decisions) for word in ("computed again", "first ones"))


def test_nothing_is_recomputed_where_memory_is_plenty():
    assert {x.method for x in make_training_plan(case(), Training()).choices} == {"exact"}


def test_a_budget_too_small_names_the_smallest_and_the_change_that_fits():
    c = case()
    asked = Training(batch=16, micro_batch=16, optimiser="momentum", layers="all", method="exact")
    need = make_training_plan(c, asked).smallest_bytes
    assert make_training_plan(c, replace(asked, budget=need)).fits
    plan = make_training_plan(c, replace(asked, budget=need - 1))
    assert not plan.fits and plan.shortfall[0].over_bytes == 1
    assert any(m.fits for m in plan.mends) and f"{need:,}" in plan.mends[-1].text
    for mend in plan.mends[:-1]:
        again = make_training_plan(c, mend.options["training"])
        assert again.fits == mend.fits, mend.text
    assert make_training_plan(c, mend_with_budget(plan)).fits
    with pytest.raises(DoesNotFit, match=re.escape("1 bytes too small")):
        sdk.compile(plan)


def mend_with_budget(plan):
    return plan.mends[-1].options["training"]


def test_layers_and_methods_that_were_asked_for_are_what_learns():
    c = case()
    names = [r.name for r in c.records]
    assert [x.layer for x in make_training_plan(c, Training(layers="last3", method="exact")).choices] == names[-3:]
    assert [x.layer for x in make_training_plan(c, Training(layers="classifier", method="bias")).choices] == names[-1:]
    fixed = make_training_plan(c, Training(layers=names[4:6], method="fixed", eps=0.8))
    assert [x.layer for x in fixed.choices] == names[4:6] and {x.method for x in fixed.choices} <= {"fixed", "exact"}
    assert {x.method for x in make_training_plan(c, Training(method="adapter", eps=0.8)).choices} <= {"adapter", "exact"}
    with pytest.raises(UsageError, match="nosuch"):
        make_training_plan(c, Training(layers=["nosuch"]))
    with pytest.raises(UsageError, match="last4"):
        make_training_plan(c, Training(layers="lastly"))


def test_a_smaller_batch_at_once_is_found_where_it_gains():
    c = case()
    whole = make_training_plan(c, Training(method="exact", layers="all", micro_batch=16))
    least = make_training_plan(c, Training(method="exact", layers="all"))
    assert least.micro_batch == 16
    split = make_training_plan(c, Training(method="exact", layers="all", budget=whole.peak_bytes // 2))
    assert split.fits and split.micro_batch < 16 and "parts" in " ".join(split.decisions)


#: (batch, image side, method, last layers) of the steps whose peak is measured, on each net.
STEPS = ((16, 64, "exact", 99), (24, 96, "fixed", 99), (24, 96, "exact", 4), (16, 64, "recompute", 99), (24, 96, "channels", 99))


@pytest.mark.long
@pytest.mark.parametrize("net", NETS)
def test_the_peak_of_a_process_is_predicted(net, monkeypatch):
    """Within 10 % or 4 MiB, in a heap that gives freed tensors back at once, as a training process with a budget has it."""
    from sdk.training.heap import THRESHOLD_BYTES
    from sdk.training.nn.meter import peak_bytes

    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(THRESHOLD_BYTES))
    for batch, side, method, layers in STEPS:
        measured = peak_bytes(peaks.trainer, net, side, batch, method, layers).growth
        predicted = predict_step(peaks.setting(net, side, batch), peaks.choices(net, side, method, layers)).peak_bytes
        assert abs(predicted - measured) <= max(0.1 * measured, 4 << 20), f"{net} {side} {batch} {method}: {predicted:,} for {measured:,}"


def test_a_process_with_a_budget_keeps_its_heap_tight():
    from tests.test_house import python

    code = "import ctypes; from sdk.training.heap import keep_tight; print(keep_tight())"
    assert python("-c", code).stdout.strip() in ("True", "False")


@pytest.mark.long
def test_a_board_learns_what_fits_its_arena():
    x, y = peaks.data(32, 32)
    model = sdk.load(peaks.module("plain"), x[:1], name="plain")
    small, large = (sdk.plan("stm32f746", model, calibration=(x.numpy(), y.numpy()), training=sdk.Training(budget=b)) for b in ("160KiB", None))
    assert small.fits and large.fits and small.ram_bytes <= 160 * 1024
    assert len(small.training.trained) and "real arena" in " ".join(large.decisions)
    assert small.ram_bytes < large.ram_bytes <= load_device("stm32f746").main_ram.size_bytes


class Balanced(HTMLParser):
    """Checks that every element that is opened is closed, and that nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.count = [], 0

    def handle_starttag(self, tag, attrs):
        assert not any(name in ("src", "href") for name, _ in attrs)
        self.count += 1
        if tag not in ("meta", "line", "circle", "path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_plan_tells_itself_as_text_as_json_and_as_a_page():
    c = case()
    fits, tight = make_training_plan(c, Training()), make_training_plan(c, Training(budget=100_000, layers="last2", method="exact"))
    for plan in (fits, tight):
        text = str(plan)
        assert all(len(line) <= 110 for line in text.splitlines())
        assert f"{plan.peak_bytes:,}" in text and plan.choices[-1].layer in text
        told = json.loads(json.dumps(plan.to_dict()))
        assert told["peak_bytes"] == sum(told["bytes"].values()) and len(told["layers"]) == len(c.records)
        page = Balanced()
        page.feed(plan.to_html())
        assert page.count > 50 and plan.to_html() == plan.to_html()
    assert "does NOT fit" in str(tight) and "What would make it fit" in str(tight)
    assert "<svg" in fits.to_html() and "this plan" in fits.to_html()


def test_time_is_told_only_where_the_device_was_measured():
    from sdk.planner.training.rates import rates_of, table
    from targets.device import Rate

    device = load_device("rpi-4b")
    assert rates_of(device) is None and make_training_plan(case(), Training()).step_time is None
    known = table()["reference"]
    same = replace(device, rates=(Rate("memcpy/1t", None, known["memcpy"]), Rate("numpy/float32/1t", known["numpy/float32"])))
    half = replace(device, rates=(Rate("memcpy/1t", None, known["memcpy"] / 2), Rate("numpy/float32/1t", known["numpy/float32"] / 2)))
    fast, slow = (make_training_plan(case(rates=rates_of(d)), Training()).step_time for d in (same, half))
    assert slow.seconds == pytest.approx(2 * fast.seconds) and fast.error > 1
    assert fast.seconds > make_training_plan(case(rates=rates_of(same)), Training(layers="classifier")).step_time.seconds


def test_constants_agree_with_the_trainer():
    from sdk.training.nn import conv_grad, ranks
    from sdk.training.nn.compressors import SMALL_BATCH

    assert (kept.WHOLE_FROM, kept.SMALL_BATCH) == (ranks.WHOLE_FROM, SMALL_BATCH)
    assert conv_grad.CHUNK * 4 == workspace.CHUNK_BYTES
    assert set(AUTO) <= {"bias", "channels", "adapter", "fixed", "asi", "recompute", "exact"}


def labelled(count=40):
    x, y = peaks.data(32, count)
    return x.numpy(), y.numpy()


def test_plan_compile_and_learn_from_the_artifact(monkeypatch, tmp_path):
    monkeypatch.setattr("sdk.training.linux.EPS_GRID", GRID)
    plan = sdk.plan("host", peaks.module("plain"), calibration=labelled(), training=sdk.Training(batch=8, method="fixed", eps=0.8, layers="last3"))
    assert plan.fits and [c.method for c in plan.choices] == ["fixed"] * 3
    artifact = sdk.compile(plan)
    assert json.loads(artifact.files["plan.json"])["peak_bytes"] == plan.peak_bytes
    assert b"<svg" in artifact.files["report.html"] or len(plan.curve) < 2
    artifact.save(tmp_path / "out")
    from sdk.training.settings import open_trainer

    made, _ = open_trainer(tmp_path / "out")
    made.step(*peaks.data(32, 8))
    assert made.saved_bytes().batch == predict_saved_bytes(walk_of(plan.program), plan.records, plan.choices, 8)
    assert made.saved_bytes().constants == plan.bytes["bases"]
    stored = np.load(tmp_path / "out" / "payload" / "calibration.npz")
    bases = [stored[name] for name in stored.files if name.endswith("basis") and stored[name].shape[1]]
    assert sum(basis.size + 4 * basis.shape[1] for basis in bases) == plan.bytes["bases"]  # 8 bits and a scale for each column


def test_named_layers_share_the_eps_of_their_fixed_bases(monkeypatch):
    monkeypatch.setattr("sdk.training.linux.EPS_GRID", GRID)
    wish = sdk.Training(batch=8, method="fixed", eps=0.8, layers="last4")
    plan = sdk.plan("host", peaks.module("plain"), calibration=labelled(), training=wish)
    records = {record.name: record for record in plan.records}
    shares = {c.layer: c.eps for c in plan.choices if c.method == "fixed"}
    weights = {name: records[name].gradient_norm ** 2 for name in shares}
    assert len(set(shares.values())) > 1
    assert sum(weights[name] * share for name, share in shares.items()) >= 0.8 * sum(weights.values()) * (1 - 1e-6)
    alone = make_training_plan(replace(case("plain"), records=plan.records), wish)
    assert all(c.eps == 0.8 for c in alone.choices if c.method == "fixed")
    assert plan.bytes["saved"] + plan.bytes["bases"] <= alone.bytes["saved"] + alone.bytes["bases"]


@pytest.mark.parametrize(("data", "said"), [
    (np.zeros((4, 3, 32, 32), np.float32), "labels y"), ((np.zeros((4, 3, 32, 32), np.float32), np.zeros(3, int)), "do not go together"),
    ((np.zeros((4, 3, 32, 32), np.float32), np.zeros(4)), "do not go together"), (None, "labels y"),
])  # fmt: skip
def test_data_without_fitting_labels_are_refused(data, said):
    with pytest.raises(DataError, match=said):
        sdk.plan("rpi-4b", peaks.module("plain"), calibration=data, training=sdk.Training())


def test_options_that_do_not_go_with_training_are_refused():
    with pytest.raises(UsageError, match="backend"):
        sdk.plan("rpi-4b", peaks.module("plain"), calibration=labelled(), training=sdk.Training(), backend="onnx")
    with pytest.raises(UsageError, match=r"sdk\.Training"):
        sdk.plan("rpi-4b", peaks.module("plain"), calibration=labelled(), training={"batch": 3})
