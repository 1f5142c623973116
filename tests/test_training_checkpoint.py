"""Checkpoints: all or nothing at every write, bit-equal continuation, and one sentence for everything that cannot be read."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from sdk.errors import UsageError  # noqa: E402
from sdk.planner.training.records import Choice  # noqa: E402
from sdk.planner.training.spec import Training  # noqa: E402
from sdk.training.nn import checkpoint  # noqa: E402
from sdk.training.nn.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from sdk.training.nn.data import Batches  # noqa: E402
from sdk.training.nn.program import read_program  # noqa: E402
from sdk.training.nn.trainer import Trainer  # noqa: E402

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 4)), "one": np.array(7), "large": np.ones(600_000, np.float32)}
X = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(5))
Y = torch.arange(20) % 3


class PowerCut(BaseException):
    """The power is gone: nothing after this runs."""


class Power:
    """Stands for `os` and cuts the power at the n-th call that touches the disk, half-way through a write."""

    CALLS = ("open", "write", "fsync", "replace")

    def __init__(self, at: int, error: BaseException | None = None) -> None:
        self.left, self.error, self.used = at, error or PowerCut(), 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CALLS:
            return self._dead if name == "unlink" and isinstance(self.error, PowerCut) and self.left < 0 else real

        def call(*args):
            self.left -= 1
            self.used += 1
            if self.left < 0:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                raise self.error
            return real(*args)

        return call

    def _dead(self, *_):
        raise PowerCut


def make_net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)).eval()


@pytest.fixture(scope="module")
def program():
    return read_program(make_net(), X[:2])


def make_trainer(program, rate: float = 0.05) -> Trainer:
    ranks = {"conv2d": (0, 2, 3, 3), "linear": (0, 9)}
    choices = [Choice(layer.name, "asi", 0.8, ranks[layer.op]) for layer in program.layers]
    return Trainer(program, choices, None, Training(batch=5, optimiser="momentum", learning_rate=rate, seed=4))


def noisy():
    """Batches whose order and values follow from torch's global generator, as augmentation does."""
    for part in torch.randperm(20).split(5):
        yield X[part] + 0.1 * torch.rand(5, 3, 8, 8), Y[part]


class Noisy:
    def __iter__(self):
        return noisy()


def everything(trainer: Trainer) -> list[np.ndarray]:
    bases = [b for learner in trainer.learners.values() for b in learner.compressor.bases if b is not None]
    return [v.numpy().copy() for v in (*trainer.updates.values.values(), *trainer.updates.velocities.values(), *bases)]


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path / "c", ARRAYS, {"step": 3, "nan": float("nan")}, "me")
    arrays, meta = load_checkpoint(tmp_path / "c", "me")
    assert meta["step"] == 3 and arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[n], ARRAYS[n]) and arrays[n].dtype == ARRAYS[n].dtype and arrays[n].shape == ARRAYS[n].shape for n in ARRAYS)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_any_damaged_byte_is_refused(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {"a": ARRAYS["a"]}, {"step": 3}, "me")
    content = path.read_bytes()
    spoiled = [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in range(len(content))]
    for wrong in (*spoiled, content[:-1], content + b"0", b"", b"EMBQCKP1"):
        path.write_bytes(wrong)
        with pytest.raises(UsageError, match="is damaged or is none"):
            load_checkpoint(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_checkpoint(tmp_path / "missing")
    path.write_bytes(content)
    with pytest.raises(UsageError, match="of another model"):
        load_checkpoint(path, "you")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "c"
    save_checkpoint(path, {"a": ARRAYS["a"]}, {"step": 1}, "me")
    before = path.read_bytes()
    said = "cannot be written" if code == errno.EROFS else r"needs 2,4.* bytes and the disk is full.*free space"
    for at in range(6):
        monkeypatch.setattr(checkpoint, "os", Power(at, OSError(code, os.strerror(code))))
        with pytest.raises(UsageError, match=said):
            save_checkpoint(path, ARRAYS, {"step": 2}, "me")
        monkeypatch.undo()
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_run_cut_at_any_write_goes_on_bit_equal(program, tmp_path, monkeypatch):
    """Power cuts at every call of the disk during a run of two epochs; then a fresh process goes on from what is there."""
    path = tmp_path / "c"

    def run(trainer, **options):
        torch.manual_seed(11)
        return trainer.fit(Noisy(), 2, evaluate=(X, Y), checkpoint=path, every=3, **options)

    whole = make_trainer(program)
    counting = Power(10**9)
    monkeypatch.setattr(checkpoint, "os", counting)
    wanted = run(whole)
    monkeypatch.undo()
    assert counting.used >= 20 and len(wanted.losses) == 8
    for at in range(counting.used):
        path.unlink(missing_ok=True)
        monkeypatch.setattr(checkpoint, "os", Power(at))
        with pytest.raises(PowerCut):
            run(make_trainer(program))
        monkeypatch.undo()
        again = make_trainer(program)
        result = run(again)
        assert result == wanted and result.losses == wanted.losses, f"cut at call {at}"
        assert all(np.array_equal(a, b) for a, b in zip(everything(again), everything(whole), strict=True)), f"cut at call {at}"


def test_a_run_that_is_over_is_not_run_again_and_early_stop_survives(program, tmp_path):
    path = tmp_path / "c"
    judged = iter([0.5, 0.7, 0.6, 0.6])
    first = make_trainer(program)
    result = first.fit(Batches(X, Y, 5), 9, evaluate=lambda _: next(judged), early_stop=2, checkpoint=path)
    assert result.ended == "early stop" and result.accuracy == 0.7
    second = make_trainer(program)
    again = second.fit(Batches(X, Y, 5), 9, evaluate=lambda _: 0.0, early_stop=2, checkpoint=path)
    assert again == result and len(again.losses) == 12
    assert all(torch.equal(second.updates.values[key], first.updates.values[key]) for key in first.updates.values)


def test_a_checkpoint_of_other_choices_or_another_model_is_refused(program, tmp_path):
    path = tmp_path / "c"
    make_trainer(program).fit(Batches(X, Y, 5), 1, checkpoint=path)
    other = Trainer(program, [Choice(layer.name) for layer in program.layers], None, Training(batch=5))
    with pytest.raises(UsageError, match="other layers, methods or optimiser"):
        other.fit(Batches(X, Y, 5), 1, checkpoint=path)
    net = make_net()
    net[0].weight.data[0] += 1
    with pytest.raises(UsageError, match="of another model"):
        make_trainer(read_program(net, X[:2])).fit(Batches(X, Y, 5), 1, checkpoint=path)
    assert make_trainer(program).fit(Batches(X, Y, 5), 1, checkpoint=path, resume=False).steps == 4


CHILD = """
import sys, time
from tests.test_training_checkpoint import *
trainer = make_trainer(read_program(make_net(), X[:2]))
torch.manual_seed(11)
print("ready", flush=True)
trainer.fit(Noisy(), 400, checkpoint=sys.argv[1], every=1, on_step=lambda told: print(told.step, flush=True))
"""


@pytest.mark.long
def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(program, tmp_path):
    path, root = tmp_path / "c", Path(__file__).resolve().parents[1]
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=root, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.strip() == "9":
            child.send_signal(signal.SIGKILL)
    child.wait()
    steps = load_checkpoint(path, program.model_id)[1]["steps"]
    assert steps >= 9
    wanted, again = make_trainer(program), make_trainer(program)
    epochs = steps // 4 + 2
    torch.manual_seed(11)
    wanted.fit(Noisy(), epochs)
    again.fit(Noisy(), epochs, checkpoint=path)
    assert all(np.array_equal(a, b) for a, b in zip(everything(again), everything(wanted), strict=True))
