"""The supernet: every subnet is a part of it, extracted it computes the same, trained it goes on after any stop."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sdk.errors import DataError, ModelError, UsageError  # noqa: E402
from sdk.prepare.moofa.nn import store  # noqa: E402
from sdk.prepare.moofa.nn.data import augmented, batches  # noqa: E402
from sdk.prepare.moofa.nn.elastic import Supernet  # noqa: E402
from sdk.prepare.moofa.nn.norm import reestimate  # noqa: E402
from sdk.prepare.moofa.nn.plain import SubnetModule, initialise  # noqa: E402
from sdk.prepare.moofa.nn.recipe import Phase, Recipe, narrowed, sandwich, shrinking  # noqa: E402
from sdk.prepare.moofa.nn.sort import sort_channels  # noqa: E402
from sdk.prepare.moofa.nn.train import Progress, train  # noqa: E402
from sdk.prepare.moofa.nn.tune import Tuning, tune  # noqa: E402
from sdk.prepare.moofa.space import Ladder, Subnet, largest, sample, smallest, uniform  # noqa: E402

LADDER = Ladder(
    "tiny", 8, 8, (8, 16), 24, 16, (2, 2, 2), ("relu", "relu", "hswish"), (False, False, True), expansions=(1, 2, 3), depths=(1, 2), resolutions=(12, 16)
)
CLASSES = 4


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def shaken(ladder: Ladder = LADDER) -> Supernet:
    """A supernet whose every parameter and statistic is another number, so that nothing can be mixed up unseen."""
    net = Supernet(ladder, CLASSES).eval()
    generator = torch.Generator().manual_seed(1)
    for value in (*net.parameters(), *(b for n, b in net.named_buffers() if "running" in n)):
        value.data.add_(0.2 * torch.rand(value.shape, generator=generator))
    return net


def coloured(count: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [count, 16, 16, 3] whose class is their tint: red, green, blue or none."""
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 60, (count, 16, 16, 3), dtype=np.uint8), random.integers(0, CLASSES, count)
    for i, label in enumerate(y):
        x[i, :, :, label : label + 1] += 150
    return x, y


def states(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- the weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_an_extracted_subnet_computes_what_the_supernet_does(seed: int) -> None:
    net, subnet = shaken(), sample(LADDER, Random(seed))
    net.set_active(subnet)
    x = torch.rand(2, 3, subnet.resolution, subnet.resolution)
    assert net(x).std() > 1e-3
    assert torch.allclose(net(x), net.extract(subnet)(x), atol=1e-6)


def test_an_extracted_subnet_has_weights_of_its_own() -> None:
    net = shaken()
    before, plain = states(net), net.extract(smallest(LADDER))
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert same(before, states(net))


def test_small_kernels_are_the_centre_of_large_ones_until_they_learn() -> None:
    block = Supernet(LADDER, CLASSES).blocks["slot0"]
    whole = block.whole.depthwise.weight
    assert torch.equal(block.kernel(7, 5), whole[:5])
    assert torch.allclose(block.kernel(5, 5), whole[:5, :, 1:6, 1:6]) and torch.allclose(block.kernel(3, 5), whole[:5, :, 2:5, 2:5])
    block.transforms["to5"].data.mul_(2.0)
    assert torch.allclose(block.kernel(5, 5), 2 * whole[:5, :, 1:6, 1:6]) and torch.allclose(block.kernel(3, 5), 2 * whole[:5, :, 2:5, 2:5])


def test_sorted_channels_are_the_same_function_with_the_important_ones_first() -> None:
    net = shaken()
    x = torch.rand(2, 3, 16, 16)
    before = net(x)
    sort_channels(net)
    assert torch.allclose(net(x), before, atol=1e-5)
    for slot in ("slot0", "slot3"):
        importance = net.blocks[slot].whole.project.weight.abs().sum((0, 2, 3))
        assert torch.all(importance[:-1] >= importance[1:])


def test_a_subnet_outside_the_space_is_refused() -> None:
    with pytest.raises(UsageError, match="kernel 9 is not in tiny"):
        Supernet(LADDER, CLASSES).set_active(replace(smallest(LADDER), kernels=(9, 3, 3, 3)))
    with pytest.raises(UsageError, match="has 4 kernels, 4 expansions and 2 depths"):
        Supernet(LADDER, CLASSES).set_active(Subnet((3,), (1,), (1, 1), 12))


# -- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_are_the_average_over_all_batches() -> None:
    net = SubnetModule(LADDER, smallest(LADDER), CLASSES)
    x = coloured()[0]
    reestimate(net, batches(x, 12, size=64))
    entry = torch.cat([net.stem[0](batch) for batch in batches(x, 12, size=64)])
    assert torch.allclose(net.stem[1].running_mean, entry.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(net.stem[1].running_var, torch.stack([e.var((0, 2, 3)) for e in entry.split(64)]).mean(0), rtol=1e-4)
    assert not net.training and net.stem[1].momentum == 0.1


def test_statistics_from_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="there were none"):
        reestimate(SubnetModule(LADDER, smallest(LADDER), CLASSES), [])


# -- training --------------------------------------------------------------------------------------------------------


def accuracy(net: Supernet, subnet: Subnet) -> float:
    x, y = coloured(seed=1)
    plain = reestimate(net.extract(subnet), batches(coloured()[0], subnet.resolution))
    return float((torch.cat([plain(b) for b in batches(x, subnet.resolution)]).argmax(1).numpy() == y).mean())


@pytest.mark.parametrize("recipe", [sandwich(LADDER, 18, 0.2, batch=64), shrinking(LADDER, 0.02, 6.0, batch=32)], ids=["sandwich", "shrinking"])
def test_every_subnet_learns(recipe: Recipe) -> None:
    net = Supernet(LADDER, CLASSES)
    said: list[Progress] = []
    assert train(net, *coloured(), recipe, report=said.append)
    assert said[-1].step == said[-1].steps and said[-1].seconds_left == pytest.approx(0) and {p.phase for p in said} == {p.name for p in recipe.phases}
    assert min(accuracy(net, subnet) for subnet in (smallest(LADDER), largest(LADDER), sample(LADDER, Random(3)))) > 0.9


def test_statistics_of_its_own_bring_a_subnet_near_what_it_was_trained_as() -> None:
    """In training every layer is normalised by its own batch; the supernet's running statistics are of other subnets."""
    net = Supernet(LADDER, CLASSES)
    train(net, *coloured(), sandwich(LADDER, 4, 0.2, batch=64))
    middle = uniform(LADDER, 5, 1, 1, 12)
    x = torch.cat(list(batches(coloured()[0], 12)))
    with torch.no_grad():
        trained_as = net.extract(middle).train()(x)
        stale, own = net.extract(middle)(x), reestimate(net.extract(middle), batches(coloured()[0], 12))(x)
    assert (own - trained_as).norm() < 0.5 * (stale - trained_as).norm()


RECIPES = {
    "sandwich": sandwich(LADDER, 1, 0.1, alone=1, batch=64),
    "frozen": Recipe((Phase("largest", 1, 0.1, narrowed(LADDER), 0, "labels"), Phase("all", 1, 0.05, LADDER, 2, "frozen", sort_first=True)), batch=64),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_run_that_goes_on_ends_with_the_weights_of_one_that_never_stopped(name: str, at: int, tmp_path: Path) -> None:
    x, y = coloured()
    whole = Supernet(LADDER, CLASSES)
    train(whole, x, y, RECIPES[name])
    asked = iter(range(100))
    stopped = Supernet(LADDER, CLASSES)
    assert not train(stopped, x, y, RECIPES[name], tmp_path / "run", stop=lambda: next(asked) == at)
    again = Supernet(LADDER, CLASSES, seed=5)
    assert train(again, x, y, RECIPES[name], tmp_path / "run")
    assert same(states(whole), states(again)) and not same(states(whole), states(stopped))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    x, y = coloured(64)
    train(Supernet(LADDER, CLASSES), x, y, RECIPES["sandwich"], tmp_path / "run")
    with pytest.raises(UsageError, match="of another model"):
        train(Supernet(LADDER, CLASSES), x, y, replace(RECIPES["sandwich"], seed=1), tmp_path / "run")


def test_a_plain_net_trains_by_the_same_recipe() -> None:
    x, y = coloured()
    net = SubnetModule(LADDER, smallest(LADDER), CLASSES)
    initialise(net, 0)
    top = replace(narrowed(LADDER), resolutions=(12,))
    assert train(net, x, y, Recipe((Phase("alone", 12, 0.2, top, 0, "labels"),), batch=64))
    answers = torch.cat([net(b) for b in batches(coloured(seed=1)[0], 12)]).argmax(1).numpy()
    assert (answers == coloured(seed=1)[1]).mean() > 0.9


def test_a_loss_that_is_no_number_ends_the_run_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="train with a smaller rate than 1e"):
        train(Supernet(LADDER, CLASSES), *coloured(), sandwich(LADDER, 4, 1e30, batch=64, warm=0.0))


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (np.zeros((4, 3, 16, 16), np.float32), np.zeros(4, int), "pictures must be uint8"),
        (np.zeros((4, 16, 16, 3), np.uint8), np.zeros(3, int), "labels must be 4 integers"),
        (np.zeros((4, 16, 16, 3), np.uint8), np.array([0, 1, -1, 0]), "from 0 up"),
    ],
)
def test_wrong_data_is_refused(x: np.ndarray, y: np.ndarray, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        train(Supernet(LADDER, CLASSES), x, y, RECIPES["sandwich"])


def test_moved_pictures_are_the_same_ones_moved() -> None:
    x = np.arange(1, 1 + 5 * 6 * 6 * 3, dtype=np.uint8).reshape(5, 6, 6, 3)
    moved = augmented(x, 0, np.random.default_rng(0))
    assert all(np.array_equal(m, a) or np.array_equal(m, a[:, ::-1]) for m, a in zip(moved, x, strict=True))
    many = np.tile(x, (20, 1, 1, 1))
    assert {np.array_equal(m, a) for m, a in zip(augmented(many, 0, np.random.default_rng(0)), many, strict=True)} == {True, False}
    assert augmented(x, 2, np.random.default_rng(0)).shape == x.shape


# -- somebody's own classes ------------------------------------------------------------------------------------------


def judged(net: SubnetModule, x: np.ndarray, y: np.ndarray) -> float:
    return float((torch.cat([net(b) for b in batches(x, net.subnet.resolution)]).argmax(1).numpy() == y).mean())


@pytest.mark.parametrize(("what", "least"), [("head", 0.8), ("all", 0.95)])  # a head on random features, and all of it
def test_a_subnet_learns_other_classes(what: str, least: float) -> None:
    base = Supernet(LADDER, CLASSES).extract(largest(LADDER))
    (x, y), (tx, ty) = coloured(128, 2), coloured(128, 3)
    classes, told = y // 2, ty // 2  # two classes where there were four
    before = states(base)
    tuned = tune(base, x, classes, Tuning(what, epochs=4))
    assert tuned.classifier.out_features == 2 and base.classifier.out_features == 4 and same(before, states(base))
    assert judged(tuned, tx, told) > least
    assert torch.equal(tuned.blocks[0].project.weight, base.blocks[0].project.weight) == (what == "head")


def test_a_solved_head_is_at_its_minimum() -> None:
    x, y = coloured(64)
    tuned = tune(Supernet(LADDER, CLASSES).extract(smallest(LADDER)), x, y, Tuning(decay=0.01))
    logits = torch.cat([tuned(b) for b in batches(x, 12)])
    slope = (logits.softmax(1) - torch.nn.functional.one_hot(torch.from_numpy(y), CLASSES)).mean(0)
    assert slope.abs().max() < 1e-3  # nothing is gained by another bias


def test_one_class_alone_and_unknown_wishes_are_refused() -> None:
    with pytest.raises(UsageError, match="all 8 labels are 0"):
        tune(Supernet(LADDER, CLASSES).extract(smallest(LADDER)), coloured(8)[0], np.zeros(8, int), Tuning())
    with pytest.raises(UsageError, match="'tail', which is not known"):
        Tuning("tail")


# -- on disk ---------------------------------------------------------------------------------------------------------


def test_a_supernet_comes_back_from_disk(tmp_path: Path) -> None:
    net = shaken()
    store.save(net, tmp_path / "net", {"task": "corners"})
    again, facts = store.load(tmp_path / "net")
    assert again.ladder == LADDER and facts["task"] == "corners" and facts["classes"] == CLASSES
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(states(net).values(), states(again).values(), strict=True))


def test_weights_of_another_ladder_are_refused(tmp_path: Path) -> None:
    store.save(shaken(), tmp_path / "net", {})
    store.save(shaken(replace(LADDER, final=32)), tmp_path / "other", {})
    (tmp_path / "net.npz").write_bytes((tmp_path / "other.npz").read_bytes())
    with pytest.raises(ModelError, match="do not fit its ladder"):
        store.load(tmp_path / "net")
    with pytest.raises(ModelError, match="cannot be read"):
        store.load(tmp_path / "nothing")


# -- several processes -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys, numpy as np, torch
from tests.test_moofa_supernet import *
torch.set_num_threads(1)
net = Supernet(LADDER, CLASSES)
train(net, *coloured(), sandwich(LADDER, 24, 0.2, batch=64), stop=lambda: False)
values = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
rank = torch.distributed.get_rank()
open(f"{sys.argv[1]}/{rank}", "w").write(f"{float(values.double().sum())} {accuracy(net, smallest(LADDER))}")  # lines of two processes may run together
"""


@pytest.mark.long
def test_two_processes_train_one_net(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617", str(script), str(tmp_path)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (sum_0, accuracy_0), (sum_1, _) = ((tmp_path / str(rank)).read_text().split() for rank in range(2))
    assert sum_0 == sum_1  # the same weights
    assert float(accuracy_0) > 0.9
