"""What the training benchmark measures with: its data, its peers and its arithmetic. No figure of a run is asserted here."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks import har, shifts, train_har, training_measure, training_methods, training_peaks, training_peers, training_plot, training_tasks
from benchmarks.rows import Row
from tests.data import shared


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_net() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4)).eval()


def batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.standard_normal((count, 3, 10, 10)).astype(np.float32)), torch.from_numpy(rng.integers(0, 4, count))


# ---- shifts ----


@pytest.mark.parametrize("kind", shifts.KINDS)
def test_a_shift_is_the_same_every_time_and_stronger_with_its_severity(kind: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    x = (shifts.gaussian(x.astype(np.float32), 2.0)).astype(np.uint8)
    once, again = shifts.shift(x, kind, 3, seed=4), shifts.shift(x, kind, 3, seed=4)
    assert once.dtype == np.uint8 and once.shape == x.shape and np.array_equal(once, again)
    moved = [np.abs(shifts.shift(x, kind, s).astype(float) - x).mean() for s in range(1, 6)]
    assert moved == sorted(moved) and moved[0] > 0


def test_blur_is_scipys() -> None:
    from scipy import ndimage

    x = np.random.default_rng(0).random((2, 12, 9, 3)).astype(np.float32)
    radius = max(1, round(3 * 1.1))
    expected = ndimage.gaussian_filter(x, (0, 1.1, 1.1, 0), mode="nearest", radius=(0, radius, radius, 0))
    assert np.allclose(shifts.gaussian(x, 1.1), expected, atol=1e-5)


def test_a_shift_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no shift 'fog' of severity 3"):
        shifts.shift(np.zeros((1, 4, 4, 3), np.uint8), "fog")
    with pytest.raises(ValueError, match="severities 1 to 5"):
        shifts.shift(np.zeros((1, 4, 4, 3), np.uint8), "noise", 6)


# ---- movement data ----


@pytest.fixture(scope="module")
def watch() -> har.Windows:
    return har.windows(shared("har/spsw_har_public.npz"), "watch")


def test_windows_lie_within_one_recording_and_hold_its_samples(watch: har.Windows) -> None:
    with np.load(shared("har/spsw_har_public.npz"), allow_pickle=False) as stored:
        mine = stored["device"] == har.DEVICES.index("watch")
        x, y, subject, execution = (stored[k][mine] for k in ("x", "label", "subject", "execution"))
    assert watch.x.shape[1:] == har.INPUT_SHAPE[1:] and watch.x.dtype == np.float32
    for person, walk in {(int(s), int(e)) for s, e in zip(watch.subject, watch.execution, strict=True)}:
        there = (watch.subject == person) & (watch.execution == walk)
        here = np.flatnonzero((subject == person) & (execution == walk))
        assert there.sum() == (len(here) - har.LENGTH) // har.STRIDE + 1
        first = np.flatnonzero(there)[0]
        assert np.allclose(watch.x[first][:, 0].T * har.SCALE, x[here[: har.LENGTH]], atol=1e-4)
        assert watch.y[first] == np.bincount(y[here[: har.LENGTH]]).argmax()


def test_what_is_tested_on_was_never_learned_from(watch: har.Windows) -> None:
    for subject in har.HELD_OUT:
        learn, test = har.split(watch, subject)
        assert len(learn.y) > 80 and len(test.y) > 80 and set(learn.subject) == set(test.subject) == {subject}
        assert max(learn.execution) < min(test.execution)


def test_the_shipped_net_knows_strangers_better_than_the_commonest_answer(watch: har.Windows) -> None:
    held = watch.of(np.isin(watch.subject, har.HELD_OUT))
    found = train_har.accuracy(har.pretrained("watch"), held.x, held.y)
    assert found > np.bincount(held.y).max() / len(held.y) + 0.2


def test_the_movement_net_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 256)
    x = rng.standard_normal((256, 6, 1, har.LENGTH)).astype(np.float32) * 0.1
    x[np.arange(256), y] += 1
    assert train_har.accuracy(train_har.train(x, y, epochs=8), x, y) > 0.8


# ---- peers ----


def test_the_published_method_at_full_energy_is_plain_autograd() -> None:
    net, (x, y) = small_net(), batch()
    names = training_peers.layers_of(net)
    exact = training_peers.gradients(training_peers.plain(net, names), x, y)
    same = training_peers.gradients(training_peers.official_hosvd(net, names, 1.0), x, y)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(exact, same, strict=True))
    less = training_peers.gradients(training_peers.official_hosvd(net, names, 0.5), x, y)
    assert training_peers.cosine(exact, less) < 0.999


def test_a_truncated_hosvd_is_tensorlys() -> None:
    tucker = pytest.importorskip("tensorly.decomposition").tucker
    import tensorly

    x = np.random.default_rng(0).standard_normal((4, 5, 6, 3)).astype(np.float32)
    core, factors = training_peers.truncated_hosvd(torch.from_numpy(x), 0.8)
    rebuilt = torch.einsum("abcd,ia,jb,kc,ld->ijkl", core, *factors).numpy()
    expected = tensorly.tucker_to_tensor(tucker(x, rank=list(core.shape), init="svd", n_iter_max=0))
    assert np.allclose(rebuilt, expected, atol=1e-4)


def test_held_bytes_counts_each_storage_once_and_no_parameter() -> None:
    w = torch.ones(50, requires_grad=True)
    x = torch.ones(50)
    with training_peers.held_bytes([w]) as held:
        (x * w).sum() + (x[:25] * w[:25]).sum()  # both keep x: one storage
    assert held == [200]


def test_only_the_last_layers_learn_and_nothing_is_kept_before_them() -> None:
    net, (x, y) = small_net(), batch()
    run = training_peers.plain(net, training_peers.last(net, "classifier"))
    with training_peers.held_bytes(list(run.net.parameters())) as held:
        training_peers.gradients(run, x, y)
    assert held[0] < 1000 and run.layers == ("8",)
    before = {k: v.clone() for k, v in run.net.state_dict().items()}
    training_peers.step(run, x, y, 0.1)
    assert {k for k, v in run.net.state_dict().items() if not torch.equal(v, before[k])} == {"8.weight", "8.bias"}


def test_last12_is_twelve_layers_and_the_classifier() -> None:
    from benchmarks import small_nets

    net = small_nets.module("mobilenetv2_035")
    names = training_peers.last(net, "last12")
    assert len(names) == 13 and names[-1] == training_peers.layers_of(net)[-1] and len(training_peers.last(net, "all")) == 53


# ---- arithmetic ----


@pytest.fixture(scope="module")
def measured() -> training_measure.Setup:
    net = small_net()
    data = [(x.numpy(), y.numpy()) for x, y in (batch(training_measure.BATCH), batch(training_measure.BATCH))]
    return training_measure.setup_of(net, "small", "all", data, data)


def test_exact_training_keeps_less_and_goes_the_same_way(measured: training_measure.Setup) -> None:
    rows = {row.metric: row for row in training_measure.kept_rows(measured, "exact")}
    assert {row.case for row in rows.values()} == {"small/all/exact"}
    assert rows["gradient_cosine"].value == pytest.approx(1, abs=1e-5) and rows["saved_bytes_ratio"].value > 1.5
    assert rows["saved_bytes"].peers["plain"] / rows["saved_bytes"].value == pytest.approx(rows["saved_bytes_ratio"].value)
    assert rows["prediction_error"].value <= 0.01


@pytest.mark.parametrize("method", ["fixed@0.6", "asi@0.6", "hosvd@0.6", "svd@0.6", "adapter@0.6"])
def test_a_compressed_method_goes_nearly_the_same_way(measured: training_measure.Setup, method: str) -> None:
    exact = training_measure.kept_rows(measured, "exact")[1].value
    rows = {row.metric: row.value for row in training_measure.kept_rows(measured, method)}
    assert 0.4 < rows["gradient_cosine"] < 0.99999 and rows["saved_bytes"] <= exact


def test_the_published_method_has_both_accounts(measured: training_measure.Setup) -> None:
    ratio, size, cosine = training_measure.published_rows(measured, 0.8)
    assert ratio.case == "small/all/published@0.8" and 0 < cosine.value <= 1
    assert size.peers["its own accounting"] < size.value


def test_methods_are_told_by_name_and_eps() -> None:
    assert training_methods.parsed("fixed@0.8") == ("fixed", 0.8) and training_methods.parsed("asi") == ("asi", 0.9)
    with pytest.raises(ValueError, match="method 'fixd' is not known; choose from exact, fixed"):
        training_methods.parsed("fixd")


def test_turns_are_taken_and_the_first_does_not_count() -> None:
    seen: list[str] = []
    lowest = training_measure.in_turns([lambda: seen.append("a"), lambda: seen.append("b")], 3)
    assert "".join(seen) == "abababab" and len(lowest) == 2 and min(lowest) > 0


def test_a_fork_tells_what_it_grew_by_and_leaves_nothing_here() -> None:
    kept: list[mmap.mmap] = []

    def grow() -> None:
        fresh = mmap.mmap(-1, 24 << 20)  # new pages; a heap may have free ones, resident already
        for page in range(0, len(fresh), mmap.PAGESIZE):
            fresh[page] = 1
        kept.append(fresh)

    def make() -> training_peaks.Callable[[], None]:
        return grow

    grown = training_peaks.forked_growth(make)
    assert 47 << 20 < grown < 64 << 20 and not kept  # it ran twice

    def fails() -> training_peaks.Callable[[], None]:
        raise ValueError("nothing to run")

    with pytest.raises(RuntimeError, match="a measured step failed"):
        training_peaks.forked_growth(fails)


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    batches = list(training_tasks.order(33, 8, 2, seed=1))
    assert len(batches) == 8 and all(len(b) == 8 for b in batches)
    first, second = (np.concatenate(batches[i : i + 4]) for i in (0, 4))
    assert len(set(first)) == len(set(second)) == 32 and not np.array_equal(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(batches, training_tasks.order(33, 8, 2, seed=1), strict=True))


def test_recovery_is_told_against_exact_training_and_full_fine_tuning() -> None:
    found = {"exact": [0.80, 0.82], "full": [0.90, 0.90], "fixed": [0.79, 0.83]}
    rows = {row.metric: row for row in training_tasks.task_rows("t", "fixed", 0.5, found)}
    assert rows["accuracy"].case == "task/t/fixed" and rows["accuracy"].value == pytest.approx(0.81) and rows["accuracy"].peers == {"full": 0.9}
    assert rows["recovery_points"].value == pytest.approx(0, abs=1e-9) and rows["share_of_full"].value == pytest.approx(0.775)
    assert rows["accuracy_spread_points"].value == pytest.approx(2 * 2**0.5)


def test_every_task_is_told_apart_and_its_methods_are_known() -> None:
    for name, task in training_tasks.TASKS.items():
        assert task.name == name and {"exact", "full", "classifier", "fixed"} <= set(task.methods) <= set(training_tasks.METHODS)
        assert all(task.recipe.rate(method) > 0 for method in task.methods) and task.recipe.batch_of("mcu") == 1


def test_the_picture_has_a_point_for_every_eps(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = []
    for layers in ("last12", "all"):
        for case, ratio, cosine in (("fixed", 20, 0.95), ("fixed@0.8", 30, 0.9), ("exact", 3, 1.0), ("published", 1.2, 0.9)):
            name = f"n/{layers}/{case}"
            rows += [Row(name, "saved_bytes_ratio", ratio, "ratio", "higher"), Row(name, "gradient_cosine", cosine, "", "higher")]
    assert training_plot.points_of(rows, "n/all/") == {"exact": [(3, 1.0)], "fixed": [(20, 0.95), (30, 0.9)], "published": [(1.2, 0.9)]}
    training_plot.training_chart(rows, tmp_path / "a.svg", "n")
    training_plot.training_chart(rows, tmp_path / "b.svg", "n")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text() and drawn.startswith("<?xml")


def test_an_error_is_told_against_the_largest_value_of_its_tensor() -> None:
    from benchmarks import training_mcu

    wanted = {"a": np.array([1.0, -4.0]), "b": np.array([0.5]), "not pulled": np.array([9.0])}
    assert training_mcu.relative_error({"a": np.array([1.0, -4.2]), "b": np.array([0.5])}, wanted) == pytest.approx(0.05)


@pytest.mark.long
def test_a_person_teaches_the_emulated_board() -> None:
    """The whole way: quantised, planned, compiled, flashed, taught by half a minute of movements, asked for what it never saw."""
    pytest.importorskip("unicorn")
    import sdk
    from benchmarks import training_mcu

    shared("har/spsw_har_public.npz")
    part = training_tasks.person_parts("watch", "phone", har.CHOSEN_ON[:1])[0]
    part = training_tasks.Part(part.x[::2], part.y[::2], part.tx[::4], part.ty[::4], tuple(v[64:] for v in part.known))
    before = train_har.accuracy(har.pretrained("phone"), part.tx, part.ty)
    training = sdk.Training(batch=1, layers="last4", learning_rate=0.005, budget="256KiB")
    assert training_mcu.accuracy_on_board(har.pretrained("phone"), part, training, epochs=1) > before + 0.2
