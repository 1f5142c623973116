"""Training a program: against torch's own SGD on the unfolded net, by every method, and what happens when a step goes wrong."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from benchmarks.linux_nets import SMALL  # noqa: E402
from sdk.errors import DataError, TrainingDiverged, UsageError  # noqa: E402
from sdk.planner.training.records import Choice  # noqa: E402
from sdk.planner.training.spec import Training  # noqa: E402
from sdk.training.nn.calibrate import Calibration, calibrate, ranks_for  # noqa: E402
from sdk.training.nn.data import Batches  # noqa: E402
from sdk.training.nn.plain import PlainTrainer  # noqa: E402
from sdk.training.nn.program import read_program  # noqa: E402
from sdk.training.nn.trainer import Trainer  # noqa: E402
from tests.test_training_program import Odd, benchmark_program, settle  # noqa: E402

F = nn.functional


class Small(nn.Module):
    """Residual, depthwise, hard-swish, pools; its weights folded with scales far from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.wide_norm = nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24)
        self.deep, self.deep_norm = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.thin, self.head = nn.Conv2d(24, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu6(self.wide_norm(self.wide(x)))
        y = F.hardswish(self.deep_norm(self.deep(y)))
        y = F.avg_pool2d(F.max_pool2d(self.thin(y) + x, 3, 2, 1), 2)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    net = settle(Small())
    return net, read_program(net, torch.rand(2, 3, 16, 16))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(24, 3, 16, 16, generator=generator)
    return x, (x.mean((1, 2, 3)) * 1000).long() % 4


@pytest.fixture(scope="module")
def calibration(small, data):
    x, y = data
    return calibrate(small[1], [(x[:12], y[:12]), (x[12:], y[12:])], eps_grid=(0.8, 0.99))


def all_of(program, method: str = "exact", **more) -> list[Choice]:
    return [Choice(layer.name, method, **more) for layer in program.layers]


def by_torch(net: nn.Module, program, names: Sequence[str], x, y, steps: int, rate: float, momentum: float = 0.0) -> dict[str, torch.Tensor]:
    """The state after torch's own SGD on the same layers of the unfolded net, batch norms in evaluation mode."""
    training = Training(batch=len(x), learning_rate=rate, momentum=momentum, optimiser="momentum" if momentum else "sgd")
    plain = PlainTrainer(copy.deepcopy(net), program, names, training)
    for _ in range(steps):
        plain.step(x, y)
    return plain.net.state_dict()


def distance(a, b, start) -> float:
    """Distance of two states over the way that the second went."""
    names = [name for name in b if b[name].is_floating_point()]
    apart = sum(float(((a[n] - b[n]).double() ** 2).sum()) for n in names)
    way = sum(float(((b[n] - start[n]).double() ** 2).sum()) for n in names)
    return (apart / way) ** 0.5


@pytest.mark.parametrize(("optimiser", "micro"), [("sgd", 0), ("momentum", 0), ("sgd", 5), ("momentum", 8)])
@pytest.mark.parametrize("layers", [2, 5])
def test_exact_training_walks_the_path_of_the_unfolded_net(small, data, layers, optimiser, micro):
    net, program = small
    x, y = data
    names = [layer.name for layer in program.layers][-layers:]
    trainer = Trainer(program, [Choice(name) for name in names], None, Training(batch=24, micro_batch=micro, optimiser=optimiser, learning_rate=0.02))
    for _ in range(4):
        trainer.step(x, y)
    want = by_torch(net, program, names, x, y, 4, 0.02, 0.9 if optimiser == "momentum" else 0.0)
    got = trainer.state_dict()
    assert distance(got, want, net.state_dict()) < 1e-4
    frozen = [name for name in got if not any(name in (program.by_name[n].weight, program.by_name[n].bias) for n in names)]
    assert all(torch.equal(got[name], net.state_dict()[name]) for name in frozen)
    assert torch.allclose(trainer.module()(x), trainer.predict(x), atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny", "text_transformer"])
def test_nets_of_the_benchmarks_learn_as_torch_has_them_learn(name):
    source = SMALL[name]
    net, x = source.module(), torch.from_numpy(np.concatenate(source.samples(6)))
    y = torch.arange(6) % 4
    program = read_program(net, x)
    want = by_torch(net, program, [layer.name for layer in program.layers], x, y, 2, 0.01)
    for method in ("exact", "recompute"):
        trainer = Trainer(program, all_of(program, method), None, Training(batch=6, learning_rate=0.01))
        for _ in range(2):  # later on, rounding may move a value across a ReLU's edge
            trainer.step(x, y)
        assert distance(trainer.state_dict(), want, net.state_dict()) < 1e-4


def test_a_rate_that_decays_follows_half_a_cosine_and_comes_back(small, data):
    x, y = data
    trainer, rates = Trainer(small[1], all_of(small[1]), None, Training(batch=8, learning_rate=0.02)), []
    step = trainer.step
    trainer.step = lambda *pair: (rates.append(trainer.updates.learning_rate), step(*pair))[1]
    trainer.fit(Batches(x, y, 8), 2, decay=True)
    wanted = [0.02 * 0.5 * (1 + np.cos(np.pi * i / 6)) for i in range(6)]
    assert rates == pytest.approx(wanted) and trainer.updates.learning_rate == 0.02
    with pytest.raises(DataError, match="how many batches an epoch has"):
        trainer.fit(iter([(x, y)]), decay=True)
    with pytest.raises(DataError):
        trainer.fit([(x[:8], y[:8]), (x[:8], y[:8] + 99)], decay=True)
    assert trainer.updates.learning_rate == 0.02


def test_odd_layers_learn_as_torch_has_them_learn():
    net, x, y = settle(Odd()), torch.rand(6, 3, 16, 16), torch.arange(6) % 5
    program = read_program(net, x)
    trainer = Trainer(program, all_of(program), None, Training(batch=6, learning_rate=0.002))
    for _ in range(3):
        trainer.step(x, y)
    want = by_torch(net, program, [layer.name for layer in program.layers], x, y, 3, 0.002)
    assert distance(trainer.state_dict(), want, net.state_dict()) < 1e-3


class Shared(nn.Module):
    """One convolution twice: its weight may move only after both gradients are there."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))).mean((2, 3)))


def test_a_weight_that_is_used_twice_moves_once():
    torch.manual_seed(0)
    net, x, y = Shared().eval(), torch.rand(5, 3, 6, 6), torch.arange(5) % 2
    program = read_program(net, x)
    trainer = Trainer(program, all_of(program), None, Training(batch=5, learning_rate=0.5))
    trainer.step(x, y)
    assert distance(trainer.state_dict(), by_torch(net, program, ["twice", "head"], x, y, 1, 0.5), net.state_dict()) < 1e-5
    assert any("used 2 times" in sentence for sentence in trainer.decisions)


class Uncommon(nn.Module):
    """Layers that our functions do not train: an embedding tied to the head, a norm, a transposed and a 3-D convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.up, self.cube = nn.ConvTranspose2d(1, 3, 2), nn.Conv3d(1, 2, 2)
        self.mix = nn.Linear(4, 4)

    def forward(self, tokens):
        x = self.norm(self.words(tokens))
        y = self.cube(self.up(x[:, None])[:, None]).mean((1, 2, 3))
        return F.linear(self.mix(x.mean(1) + y[:, :4]), self.words.weight)


def test_what_has_no_function_of_ours_learns_by_plain_autograd_and_says_so():
    torch.manual_seed(0)
    net, x, y = Uncommon().eval(), torch.randint(0, 5, (6, 7)), torch.arange(6) % 5
    program = read_program(net, x)
    assert [layer.name for layer in program.layers] == ["mix"] and set(program.plain) == {"words", "norm", "up", "cube"}
    trainer = Trainer(program, [Choice(name) for name in ("mix", *program.plain)], None, Training(batch=6, micro_batch=4, learning_rate=0.1))
    for _ in range(3):
        trainer.step(x, y)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    start = copy.deepcopy(net.state_dict())
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    assert distance(trainer.state_dict(), net.state_dict(), start) < 1e-5
    assert any("words is no convolution" in sentence and "plain autograd" in sentence for sentence in trainer.decisions)


def test_the_first_channels_learn_and_no_others(small, data):
    net, program = small
    x, y = data
    exact = Trainer(program, all_of(program), None, Training(batch=24))
    some = Trainer(program, all_of(program, "channels", fraction=0.5), None, Training(batch=24, optimiser="momentum"))
    exact.step(x, y)
    some.step(x, y)
    want, got, start = exact.state_dict(), some.state_dict(), net.state_dict()
    for layer in program.by_name.values():
        count = round(layer.record.weight_shape[1] / 2) or 1
        moved, all_moved = got[layer.weight] - start[layer.weight], want[layer.weight] - start[layer.weight]
        assert torch.allclose(moved[:, :count], all_moved[:, :count], atol=1e-6) and moved.abs().max() > 0
        assert layer.record.groups > 1 or not moved[:, count:].any()
    assert some.saved_bytes().batch < exact.saved_bytes().batch
    assert torch.allclose(some.module()(x), some.predict(x), atol=1e-4)


@pytest.mark.parametrize("method", ["fixed", "asi", "hosvd", "svd", "adapter", "bias"])
def test_every_method_learns_and_keeps_less_than_exact(small, data, calibration, method):
    x, y = data
    program = small[1]

    def trained(way):
        trainer = Trainer(program, all_of(program, way, eps=0.8), calibration, Training(batch=24, learning_rate=0.02))
        return trainer, [trainer.step(x, y).loss for _ in range(6)]

    exact, ours = trained("exact"), trained(method)
    assert ours[1][-1] < ours[1][0]
    assert ours[0].saved_bytes().batch < exact[0].saved_bytes().batch
    assert torch.allclose(ours[0].module()(x), ours[0].predict(x), atol=1e-4)


def test_recomputed_blocks_give_the_same_gradients_for_less(small, data):
    net, program = small
    x, y = data
    names = [layer.name for layer in program.layers]
    ways = [all_of(program), all_of(program, "recompute"), [Choice(n, "recompute" if n == "head" else "exact") for n in names]]
    saved = []
    for choices in ways:
        trainer = Trainer(program, choices, None, Training(batch=24, learning_rate=0.02, optimiser="momentum"))
        for _ in range(3):
            trainer.step(x, y)
        saved.append(trainer.saved_bytes().batch)
        want = by_torch(net, program, names, x, y, 3, 0.02, 0.9)
        assert distance(trainer.state_dict(), want, net.state_dict()) < 1e-4
    assert saved[1] < saved[0] / 2 and saved[1] < saved[2] <= saved[0]


def test_blocks_are_those_of_the_net():
    program = benchmark_program()
    found = [block.layers for block in program.blocks]
    assert ("3.body.0.0", "3.body.1.0", "3.body.2.0") in found and ("4.body.0.0", "4.body.1.0", "4.body.2.0") in found
    assert [name for layers in found for name in layers] == list(program.by_name)


def test_all_energy_kept_is_the_exact_gradient(small, data, calibration):
    x, y = data
    program = small[1]
    training = Training(batch=24, learning_rate=0.02)
    ways = [Trainer(program, all_of(program, method, eps=1.0), calibration, training) for method in ("exact", "fixed", "hosvd", "asi")]
    for trainer in ways:
        trainer.step(x, y)
    for other in ways[1:]:
        assert distance(other.state_dict(), ways[0].state_dict(), small[0].state_dict()) < 1e-3


def test_adapters_walk_the_path_of_fixed_subspaces(small, data, calibration):
    x, y = data
    program = small[1]
    choices = [Choice(layer.name, "adapter", 0.8, ranks_for(calibration.record(layer.name), "adapter", 0.8)) for layer in program.layers if layer.groups == 1]
    assert any(any(choice.ranks) for choice in choices)
    by = {}
    for method in ("adapter", "fixed"):
        same = [Choice(c.layer, method, c.eps, c.ranks) for c in choices if any(c.ranks)]
        by[method] = Trainer(program, same, calibration, Training(batch=24, learning_rate=0.02))
        for _ in range(20):
            by[method].step(x, y)
    assert distance(by["adapter"].state_dict(), by["fixed"].state_dict(), small[0].state_dict()) < 1e-5


def test_calibration_is_read_back_as_it_was(small, calibration, tmp_path):
    calibration.save(tmp_path / "c.npz")
    again = Calibration.load(tmp_path / "c.npz")
    assert again.records == calibration.records and again.model_id == small[1].model_id and again.samples == 24
    for record, other in zip(calibration.records, again.records, strict=True):
        assert record.cosines == other.cosines and record.gradient_norm == other.gradient_norm > 0
        assert all(np.array_equal(a, b) for a, b in zip(record.spectra, other.spectra, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(calibration.bases[record.name], again.bases[record.name], strict=True))
    whole = (tmp_path / "c.npz").read_bytes()
    for wrong in (b"nothing", b"", whole[: len(whole) // 2]):
        (tmp_path / "c.npz").write_bytes(wrong)
        with pytest.raises(UsageError, match="is not a calibration"):
            Calibration.load(tmp_path / "c.npz")


def test_cosines_rise_with_the_energy_kept(calibration):
    for record in calibration.records:
        for method in ("fixed", "hosvd"):
            assert record.cosines[method, 0.8] <= record.cosines[method, 0.99] + 1e-3
            assert record.cosines[method, 0.99] > 0.9, record.name


def test_the_calibrated_gradient_norm_is_that_of_torch(small, data, calibration):
    net, program = small
    x, y = data
    F.cross_entropy(net(x[:12]), y[:12]).backward()
    first = {name: value.grad.norm() for name, value in net.named_parameters()}
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(x[12:]), y[12:]).backward()
    for layer in program.by_name.values():
        mean = float(first[layer.weight] + dict(net.named_parameters())[layer.weight].grad.norm()) / 2
        assert calibration.record(layer.name).gradient_norm == pytest.approx(mean, rel=1e-3)
    net.zero_grad(set_to_none=True)


@pytest.mark.parametrize("momentum", ["sgd", "momentum"])
@pytest.mark.parametrize("micro", [0, 8])
def test_a_step_that_fails_half_way_leaves_nothing_behind(small, data, calibration, micro, momentum, monkeypatch):
    x, y = data
    program = small[1]
    trainer = Trainer(program, all_of(program, "asi", eps=0.8), calibration, Training(batch=24, micro_batch=micro, optimiser=momentum))
    trainer.step(x, y)
    before = {key: value.clone() for key, value in (trainer.updates.values | trainer.updates.velocities).items()}
    bases = [basis.clone() for learner in trainer.learners.values() for basis in learner.compressor.bases if basis is not None]
    taken = trainer.updates.take

    def spoiled(key, grad):
        taken(key, grad * float("nan") if key == "stem.weight" else grad)

    monkeypatch.setattr(trainer.updates, "take", spoiled)
    with pytest.raises(TrainingDiverged, match=r"gradient of stem.weight is not finite.*lower the learning rate"):
        trainer.step(x, y)
    assert all(torch.equal(value, before[key]) for key, value in (trainer.updates.values | trainer.updates.velocities).items())
    after = [basis for learner in trainer.learners.values() for basis in learner.compressor.bases if basis is not None]
    assert all(torch.equal(a, b) for a, b in zip(bases, after, strict=True))
    monkeypatch.undo()
    assert trainer.step(x, y).loss > 0 and trainer.steps == 2


def test_a_loss_that_is_not_finite_changes_nothing(small, data):
    x, y = data
    trainer = Trainer(small[1], all_of(small[1]), None, Training(batch=24))
    with pytest.raises(TrainingDiverged, match="loss of step 1 is nan") as error:
        trainer.step(torch.where(x > 0.5, x, torch.tensor(float("nan"))), y)
    assert error.value.exit_code == 5
    assert all(torch.equal(value, small[0].state_dict()[name]) for name, value in trainer.state_dict().items())


BAD_DATA = [
    (lambda x, y: (x, y + 4), "label 7 is not a class"),
    (lambda x, y: (x, y - 1), "label -1 is not a class"),
    (lambda x, y: (x, y.float()), "labels of float32"),
    (lambda x, y: (x, y[:3]), "24 samples and 3 labels"),
    (lambda x, y: (x[:, :2], y), r"shape \[24, 2, 16, 16\] do not fit"),
    (lambda x, y: (x[:0], y[:0]), "without samples"),
    (lambda x, y: ((x * 255).long(), y), "samples of int64"),
    (lambda x, y: (object(), y), "cannot be read as numbers"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BAD_DATA)
def test_bad_data_is_refused_in_one_sentence(small, data, spoil, sentence):
    trainer = Trainer(small[1], all_of(small[1]), None, Training(batch=24))
    with pytest.raises(DataError, match=sentence):
        trainer.step(*spoil(*data))
    with pytest.raises(DataError, match=sentence):
        trainer.evaluate(*spoil(*data))
    assert trainer.steps == 0


def test_bad_choices_are_refused_in_one_sentence(small, calibration):
    program = small[1]
    for choices, known, sentence in (
        ([Choice("nowhere")], None, "no layer 'nowhere'.*it has stem, wide"),
        ([Choice("stem"), Choice("stem", "bias")], None, "stem is chosen twice"),
        ([Choice("stem", "fixed")], None, "needs a calibration"),
        ([Choice("stem", "fixed", ranks=(0, 99, 1, 1))], calibration, r"ranks \(0, 99, 1, 1\) do not fit"),
    ):
        with pytest.raises(UsageError, match=sentence):
            Trainer(program, choices, known)


class Mixes(nn.Module):
    """Every sample sees the mean of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x - x.mean(0))


def test_batches_that_cannot_be_taken_apart_are_refused():
    mixing = read_program(Mixes(), torch.rand(3, 4))
    with pytest.raises(UsageError, match="mixes the samples of a batch"):
        Trainer(mixing, [Choice("head")], None, Training(batch=4, micro_batch=2))
    whole_batch = Trainer(mixing, [Choice("head")], None, Training(batch=4))
    assert whole_batch.step(torch.rand(4, 4), torch.zeros(4, dtype=torch.int64)).loss > 0
    with pytest.raises(UsageError, match="mixes the samples of a batch"):
        whole_batch.step(torch.rand(8, 4), torch.zeros(8, dtype=torch.int64))
    whole = read_program(torch.export.export(nn.Linear(4, 2), (torch.rand(3, 4),)))
    with pytest.raises(UsageError, match="exported for batches of 3 and training asks for 4"):
        Trainer(whole, [Choice(whole.layers[0].name)], None, Training(batch=4))
    trainer = Trainer(whole, [Choice(whole.layers[0].name)], None, Training(batch=6, micro_batch=3))
    with pytest.raises(DataError, match="batches of 3"):
        trainer.step(torch.rand(5, 4), torch.zeros(5, dtype=torch.int64))
    assert trainer.predict(torch.rand(5, 4)).shape == (5, 2), "judging takes any number"


def test_a_run_learns_stops_early_and_tells_every_step(small, data):
    x, y = data
    trainer = Trainer(small[1], all_of(small[1]), None, Training(batch=8, learning_rate=0.05))
    told = []
    result = trainer.fit(Batches(x, y, 8, seed=1), 4, evaluate=(x, y), on_step=told.append)
    assert result.steps == len(told) == len(result.losses) == 12 and result.ended == "done"
    assert np.mean(result.losses[-3:]) < np.mean(result.losses[:3])
    assert [t.held_out is not None for t in told] == [False, False, True] * 4 and told[-1].epoch == 3
    assert result.accuracy == trainer.evaluate(x, y).accuracy == told[-1].held_out
    falling = iter([0.5, 0.6, 0.4, 0.3, 0.2])
    stopped = trainer.fit(Batches(x, y, 8), 9, evaluate=lambda _: next(falling), early_stop=2)
    assert stopped.ended == "early stop" and len(stopped.losses) == 9 and stopped.accuracy == 0.6
    asked = trainer.fit(Batches(x, y, 8), 9, stop=lambda: True)
    assert asked.ended == "asked to stop" and len(asked.losses) == 1
    with pytest.raises(DataError, match="no batch in epoch 1"):
        trainer.fit([], 1)
    with pytest.raises(DataError, match="no batch in epoch 2"):
        trainer.fit(iter([(x, y)]), 2)


def test_last_layers_of_the_benchmark_net_keep_little():
    program = benchmark_program()
    names = [layer.name for layer in program.layers][-12:]
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    trainer = Trainer(program, [Choice(name) for name in names], None, Training(batch=8))
    trainer.step(x, y)
    masks = sum(layer.output_size for layer in program.layers[-12:] if layer.activation) // 8
    inputs = 4 * sum(layer.input_size for layer in program.layers[-12:])
    small_change = 2000  # logits, probabilities and labels of the loss
    assert 0 <= trainer.saved_bytes().batch - 8 * (masks + inputs) < small_change
