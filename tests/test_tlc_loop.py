"""A small network collapsed on real digits, for a board: less work, the same task; killed and gone on with; every refusal a sentence."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import sdk  # noqa: E402
import sdk.tlc  # noqa: E402
from sdk.errors import DataError, DoesNotFit, UsageError  # noqa: E402
from sdk.prepare.tlc.nn.candidates import candidates, sites_behind  # noqa: E402
from sdk.prepare.tlc.nn.costs import Costs, timed_s  # noqa: E402
from sdk.prepare.tlc.nn.evaluate import distilled_loss, evaluate  # noqa: E402
from sdk.prepare.tlc.nn.samples import samples_of  # noqa: E402
from sdk.prepare.tlc.nn.score import Importance, affine  # noqa: E402
from sdk.prepare.tlc.nn.statistics import agreement, measure  # noqa: E402
from sdk.prepare.tlc.nn.trace import canonical, linear_ops, sites  # noqa: E402
from sdk.prepare.tlc.nn.tune import rate, tune  # noqa: E402
from sdk.prepare.tlc.records import Budget, Settings, budget_of  # noqa: E402

BOARD = "stm32f746"
QUICK = {"epochs": 1, "batch": 64, "rate": 0.03, "score_samples": 200, "refit_samples": 128, "measure": False, "device": BOARD}


class Block(nn.Module):
    """x -> 1x1 expand -> depthwise 3x3 -> 1x1 project, + x."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(width, hidden, 1, bias=False), nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.project = nn.Conv2d(hidden, width, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(hidden), nn.BatchNorm2d(hidden), nn.BatchNorm2d(width)])

    def forward(self, x):
        y = nn.functional.relu6(self.norms[0](self.expand(x)))
        y = nn.functional.relu6(self.norms[1](self.depthwise(y)))
        return x + self.norms[2](self.project(y))


def untrained() -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    return nn.Sequential(*stem, Block(8, 32), Block(8, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target.astype(np.int64)
    return x[:900], y[:900], x[1300:], y[1300:]


@pytest.fixture(scope="module")
def net(data):
    """Trained to about nine in ten."""
    made = untrained()
    tune(made, samples_of(data, 0.1, 0), None, Settings(rate=0.2, batch=32), 4, 1, lambda _: None)
    return made.eval()


@pytest.fixture(scope="module")
def collapsed(net, data):
    before = copy.deepcopy(net.state_dict())
    found = sdk.tlc.collapse(net, data, {"latency_ratio": 0.6}, **{**QUICK, "epochs": 4})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "the given model stays as it is"
    return found


def test_fewer_layers_do_the_same_task(net, data, collapsed):
    report = collapsed.report
    assert report.ended == "budget met"
    assert report.after.latency_s <= 0.61 * report.before.latency_s
    assert report.after.activations == report.before.activations - len(collapsed.removed) == 5 - len(collapsed.removed)
    assert report.after.layers < report.before.layers == 8
    assert report.merge_error < 1e-4
    x, y = torch.from_numpy(data[2]), data[3]
    with torch.no_grad():
        accuracy = float((collapsed.model(x).argmax(1).numpy() == y).mean())
        dense = float((net(x).argmax(1).numpy() == y).mean())
    assert accuracy == pytest.approx(report.after.accuracy, abs=0.004)
    assert dense == pytest.approx(report.before.accuracy, abs=1e-6)
    assert accuracy > 0.8 * dense > 0.6


def test_the_result_is_planned_like_any_module(data, collapsed):
    """The planner's own figures of the whole net, not those the choice was made by."""
    model = sdk.load(collapsed.model, example=torch.from_numpy(data[0][:1]), name="digits", input_layout="nhwc")
    plan = sdk.plan(BOARD, model, calibration=np.ascontiguousarray(data[0][:64].transpose(0, 2, 3, 1)))
    assert plan.fits
    assert plan.cost.latency_s == pytest.approx(collapsed.report.after.latency_s, rel=0.02)
    assert sum(plan.arena_bytes) == collapsed.report.after.arena_bytes


def test_the_report_as_table_json_and_page(collapsed, tmp_path):
    report = collapsed.report
    text, plain, page = str(report), json.loads(json.dumps(report.to_dict())), report.to_html()
    assert f"{len(collapsed.removed)} of 5 activations" in text
    assert "peak RAM, planned" in text
    assert plain["after"]["layers"] == report.after.layers
    assert [r["number"] for r in plain["rounds"]] == list(range(1, len(report.rounds) + 1))
    assert page.count("<rect class=buffer") == 8
    assert page.count("stroke=\"var(--bad)\"") == len(collapsed.removed)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert report.to_html() == page
    folder = report.save(tmp_path / "report")
    assert json.loads((folder / "report.json").read_text()) == plain
    assert (folder / "report.html").read_text() == page
    with pytest.raises(UsageError, match="cannot be written to"):
        report.save(folder / "report.json")


def test_a_run_that_is_killed_goes_on_to_the_same_network(net, data, tmp_path):
    path = tmp_path / "collapse.ckpt"
    options = {**QUICK, "epochs": 2, "per_round": 2}

    class Killed(Exception):
        pass

    def kill(line):
        if line.startswith("round 2: epoch 2"):
            raise Killed

    whole = sdk.tlc.collapse(net, data, {"removed": 4}, **options)
    with pytest.raises(Killed):
        sdk.tlc.collapse(net, data, {"removed": 4}, checkpoint=path, progress=kill, **options)
    again: list[str] = []
    found = sdk.tlc.collapse(net, data, {"removed": 4}, checkpoint=path, progress=again.append, **options)
    assert not any(line.startswith("round 1") for line in again)
    assert not any(line.startswith("round 2: epoch 1") for line in again)
    assert found.removed == whole.removed
    assert all(torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), whole.model.state_dict().values(), strict=True))
    with pytest.raises(UsageError, match="another model"):
        sdk.tlc.collapse(net, data, {"removed": 3}, checkpoint=path, **options)


def test_ctrl_c_keeps_the_best_so_far(net, data):
    def stop(line):
        if line.startswith("round 2: epoch"):
            raise KeyboardInterrupt

    found = sdk.tlc.collapse(net, data, {"removed": 5}, progress=stop, per_round=1, **QUICK)
    assert found.report.ended == "asked to stop"
    assert len(found.removed) == 1 == len(found.report.rounds)


def test_max_drop_ends_with_the_last_network_within_it(net, data):
    found = sdk.tlc.collapse(net, data, max_drop=1.0, per_round=2, **{**QUICK, "epochs": 0, "refit": False})
    report = found.report
    assert report.ended in ("drop reached", "nothing left")
    over = [r for r in report.rounds if r.drop_points > 1.0]
    assert [r.number for r in over] == ([len(report.rounds)] if report.ended == "drop reached" else [])
    kept = [r for r in report.rounds if r.drop_points <= 1.0]
    assert len(found.removed) == (kept[-1].removed_in_all if kept else 0)
    assert report.drop_points <= 1.0 + 1e-6


@pytest.mark.parametrize(("choice", "importance"), [("greedy", "auto"), ("random", "auto"), ("dynamic", "energy")])
def test_other_choices_remove_as_many_as_asked(net, data, choice, importance):
    found = sdk.tlc.collapse(net, data, {"removed": 2}, choice=choice, importance=importance, rule="on_off", **{**QUICK, "epochs": 0})
    assert len(found.removed) == 2
    assert found.report.ended == "budget met"


def test_a_merge_that_costs_more_is_refused():
    """Two 3x3 layers of 16 channels become a 5x5 one of 1.39 times the work; an inverted residual becomes much less."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), Block(16, 64))
    module = canonical(plain, torch.randn(2, 16, 12, 12))
    found = candidates(module, sites(module), Costs(BOARD), 7, lambda _: None)
    merged = {option.merged for option in found.options if option.merged}
    assert any("0 to 2" in reason and "ms" in reason for reason in found.refused)
    assert not any(key.startswith("0+2") for key in merged)
    assert any(key.endswith("4.expand+4.depthwise+4.project+add") for key in merged)
    assert found.standing({}).latency_s == pytest.approx(found.cost.latency_s)
    best = found.standing({site.name: site.channels for site in sites(module)})
    assert best.latency_s < found.cost.latency_s
    narrow = {option.keep: option for option in found.options if option.removes == ("1",) and option.keep}
    assert set(narrow) == {14, 12, 8, 4}
    assert narrow[4].latency_s < narrow[8].latency_s < sum(o.latency_s for o in found.options[:2])
    assert found.standing({"1": 4}).latency_s < found.standing({"1": 8}).latency_s < found.standing({"1": 16}).latency_s


def test_layers_without_an_activation_between_get_narrower(data, tmp_path):
    """Two convolutions in a row are made narrower where that is what the budget needs; channels really leave the weights."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    made = nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    tune(made, samples_of(data, 0.1, 0), None, Settings(rate=0.2, batch=64), 1, 1, lambda _: None)
    found = sdk.tlc.collapse(made, data, {"latency_ratio": 0.65}, **{**QUICK, "max_kernel": 3}, checkpoint=tmp_path / "narrow.ckpt")
    again = sdk.tlc.collapse(made, data, {"latency_ratio": 0.65}, **{**QUICK, "max_kernel": 3}, checkpoint=tmp_path / "narrow.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), again.model.state_dict().values(), strict=True))
    assert found.report.ended == "budget met"
    assert found.removed == ("2",)
    layers = [layer for layer in found.model.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] in ([(1, 8), (8, 16)], [(1, 4), (4, 16)])
    assert found.report.merge_error < 1e-4


def test_a_layer_is_fitted_to_its_wider_outputs_before_it_is_narrowed(data):
    """It reads one activation that went in this round and makes the narrow middle of another."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    found = sdk.tlc.collapse(made, data, {"removed": 2, "latency_ratio": 0.6}, **{**QUICK, "max_kernel": 3, "epochs": 0, "step": 0.9})
    widths = [layer.out_channels for layer in found.model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(found.removed) == 2
    assert min(widths[:2]) < 8 == widths[2]


def test_lines_are_least_squares_and_the_network_is_not_touched(net, data):
    module = canonical(net, torch.from_numpy(data[0][:2]))
    found = sites(module)
    x = torch.from_numpy(data[0][:100])
    before = copy.deepcopy(module.state_dict())
    importance = Importance(module, found, x, torch.from_numpy(data[1][:100]), "line", "divergence")
    site = found[1]
    seen = []
    handle = module.get_submodule(site.name).register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    with torch.no_grad():
        module.eval()(x)
    handle.remove()
    a, b = (t.movedim(1, 0).reshape(site.channels, -1).double().numpy() for t in seen[0])
    moments = importance.moments[site.name]
    scale, shift = moments.line()
    for c in np.flatnonzero(scale):
        assert np.polyfit(a[c], b[c], 1) == pytest.approx([scale[c], shift[c]], abs=1e-4)
    assert moments.above == pytest.approx((a > 0).mean(1))
    assert importance((site.name,)) == importance((site.name,))
    assert importance(()) == 0.0
    assert 0 < importance((site.name,)) < importance([s.name for s in found])
    with torch.no_grad():
        replaced = copy.deepcopy(module).eval()
        replaced.set_submodule(site.name, affine(importance.replacements[site.name], 1, x))
        moved = torch.nn.functional.log_softmax(replaced(x), 1), torch.nn.functional.log_softmax(module(x), 1)
        assert importance((site.name,)) == pytest.approx(float((moved[1].exp() * (moved[1] - moved[0])).sum(1).mean()), rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_criterion_foretells_what_a_batch_norm_feeds(net, data):
    module = canonical(net, torch.from_numpy(data[0][:2]))
    found = sites(module)
    assert all(site.kind == "bn" for site in found)
    told = agreement(module, found, measure(module, found, [torch.from_numpy(data[0][:200]), torch.from_numpy(data[0][200:400])]))
    assert all(a.predicted.shape == a.measured.shape == (site.channels,) for a, site in zip(told, found, strict=True))
    assert max(a.correlation for a in told) > 0.5
    with pytest.raises(DataError, match="no batch"):
        measure(module, found, [])


def test_sites_stand_behind_the_last_operation_that_feeds_them(net, data):
    module = canonical(net, torch.from_numpy(data[0][:2]))
    ops = linear_ops(module)
    behind = sites_behind(ops, sites(module))
    assert sum(len(names) for names in behind.values()) == 5
    assert all(ops[i] == site.sources[-1] for site in sites(module) for i, names in behind.items() if site.name in names)


def test_distillation_is_cross_entropy_without_a_teacher_and_nothing_at_equal_answers():
    logits, labels = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([1])
    hard = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.equal(distilled_loss(logits, labels, None, 0.7, 2.0), hard)
    assert distilled_loss(logits, labels, logits, 0.7, 2.0) == pytest.approx(float(0.3 * hard))
    assert distilled_loss(logits, labels, -logits, 1.0, 2.0) > 0


def test_the_rate_rises_and_falls():
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert rates.index(max(rates)) in range(3, 7)
    assert max(rates) <= 0.1
    assert rates[-1] < 1e-3


def test_costs_on_this_computer_are_timed(net, data):
    costs = Costs("host")
    cost, places = costs.whole(net, (1, 1, 8, 8))
    assert "timed on this computer" in costs.basis
    assert 0 < cost.latency_s == pytest.approx(sum(p.latency_s for p in places))
    assert timed_s(net, torch.zeros(1, 1, 8, 8), 2) > 0
    assert "only ratios mean something" in Costs(None).basis


WRONG = [
    ({}, UsageError, "nothing says how far to go"),
    ({"max_drop": -1.0}, UsageError, "max_drop -1.0 is not possible"),
    ({"budget": {"latency": 1}}, UsageError, "budget names 'latency'"),
    ({"budget": {}}, UsageError, "bounds nothing"),
    ({"budget": {"latency_ms": 1, "latency_ratio": 0.5}}, UsageError, "may contradict"),
    ({"budget": {"latency_ratio": 1.5}}, UsageError, "a share of what the network takes"),
    ({"budget": {"removed": 0}}, UsageError, "above 0"),
    ({"budget": 0.5}, UsageError, "cannot be read"),
    ({"max_drop": 1.0, "epoch": 3}, UsageError, "no option 'epoch'"),
    ({"max_drop": 1.0, "choice": "best"}, UsageError, "choice 'best' is not known"),
    ({"max_drop": 1.0, "rate": 0.0}, UsageError, "rate and temperature"),
    ({"max_drop": 1.0, "step": 1.5}, UsageError, "step 1.5 is not possible"),
    ({"max_drop": 1.0, "batch": 0}, UsageError, "batch 0 is not possible"),
    ({"budget": {"removed": 6}}, DoesNotFit, "removes 6 activations"),
    ({"budget": {"peak_ram": 10}}, DoesNotFit, "the smallest needs"),
    ({"budget": {"latency_ratio": 0.001}}, DoesNotFit, "the fastest takes"),
]


@pytest.mark.parametrize(("given", "error", "text"), WRONG)
def test_wrong_requests_are_refused_before_anything_is_trained(net, data, given, error, text):
    with pytest.raises(error, match=text):
        sdk.tlc.collapse(net, data, device=BOARD, **given)


def test_wrong_data_and_models_are_refused(net, data):
    x, y = data[:2]
    for wrong, text in (
        ((x, y[:-1]), "one label for each sample"),
        ((x, y.astype(np.float32)), "are no class numbers"),
        ((x[:5], y[:5]), "too few"),
        (x, "the data is a ndarray"),
        ((x, y + 10), "not a class of the model"),
        ((np.full_like(x, np.nan), y), "not finite"),
        ((["a"], [1]), "cannot be read as numbers"),
    ):
        with pytest.raises(DataError, match=text):
            sdk.tlc.collapse(net, wrong, max_drop=1.0)
    with pytest.raises(UsageError, match="does not take an example of shape"):
        sdk.tlc.collapse(net, (x[:, :, :, :, None], y), max_drop=1.0)
    with pytest.raises(UsageError, match="nothing to collapse"):
        sdk.tlc.collapse(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (x, y), max_drop=1.0)
    with pytest.raises(UsageError, match="and str is none"):
        sdk.tlc.collapse("net.onnx", (x, y), max_drop=1.0)
    with pytest.raises(DataError, match=r"not \[batch, classes\]"):
        evaluate(nn.Identity(), torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))


def test_budgets_are_read_from_what_users_write():
    assert budget_of("64KiB") == Budget(peak_ram=65536) == budget_of(65536)
    assert budget_of({"latency_ms": 12}).latency_s(1.0) == 0.012
    assert Budget(peak_ram_ratio=0.5).peak_bytes(1001) == 500
    assert Budget(removed=3).latency_s(1.0) is None


@pytest.mark.parametrize("name", ["bert", pytest.param("vgg16_bn", marks=pytest.mark.long), pytest.param("swin", marks=pytest.mark.long)])
def test_networks_of_other_kinds_collapse(name):
    """Transformers have no batch norm in front of their activations; tokens are numbers of words."""
    from benchmarks import tlc_nets

    x = tlc_nets.example(name, 60)
    made = tlc_nets.net(name)
    with torch.no_grad():
        y = made(x).argmax(1)
    options = {"epochs": 0, "score_samples": 20, "refit_samples": 40, "measure": False}
    found = sdk.tlc.collapse(made, (x, y), {"removed": 2}, **options)
    assert len(found.removed) == 2
    assert found.report.after.layers < found.report.before.layers
    assert found.report.merge_error < 1e-4
    with torch.no_grad():
        assert found.model(x).shape == made(x).shape


def test_training_that_diverges_keeps_the_network_of_before(net, data, monkeypatch):
    from sdk.errors import TrainingDiverged
    from sdk.prepare.tlc.nn import tune as module

    calls = []

    def diverges(*args):
        calls.append(args)
        if len(calls) > 20:
            raise TrainingDiverged("the loss became nan")
        return 0.0

    monkeypatch.setattr(module, "_update", diverges)
    found = sdk.tlc.collapse(net, data, {"removed": 4}, per_round=1, **QUICK)
    assert found.report.ended == "training diverged"
    assert len(found.removed) == 1
    with pytest.raises(TrainingDiverged):
        sdk.tlc.collapse(net, data, {"removed": 4}, per_round=1, **QUICK)
