"""`embarq train` and what surrounds it: samples judged before they are sent, wishes read, nothing written unless it is no worse."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

import sdk
from sdk import cli
from sdk.commands.train import training_of
from sdk.errors import DataError, UsageError
from sdk.remote_training import check_samples, hold_back
from sdk.train_result import TrainResult, TrainStep
from sdk.zipapp import training_zipapp

X = np.zeros((8, 3, 4), np.float32)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])


# ---- samples ----


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (X[:0], Y[:0], "there are no samples to learn from"),
        (X.transpose(0, 2, 1), Y, r"samples have shape \[4, 3\] and the model takes \[3, 4\]"),
        (X, Y[:7], r"labels are int64\[7\] for 8 samples"),
        (X, Y.astype(float), "give one whole number for each"),
        (X, Y + 1, "label 3 is none of the model's 3 classes; labels count from 0 to 2"),
        (X, Y - 1, "label -1 is none of"),
        (np.where(np.arange(8)[:, None, None] == 5, np.nan, X), Y, "sample 5 holds NaN or infinity"),
    ],
)
def test_samples_that_cannot_be_learned_from_are_refused_in_one_sentence(x, y, sentence):
    with pytest.raises(DataError, match=sentence) as error:
        check_samples(x, y, (3, 4), "float32", 3)
    assert "\n" not in str(error.value)


def test_good_samples_come_in_the_models_own_type():
    x, y = check_samples(X.astype(np.float64), Y.astype(np.uint8), (3, 4), "float32", 3)
    assert x.dtype == np.float32 and y.dtype == np.int64 and np.array_equal(y, Y)


def test_samples_are_held_back_from_every_class_and_never_learned_from():
    y = np.repeat([0, 1, 2], [50, 20, 10])
    x = np.arange(80.0)[:, None]
    split = hold_back(x, y, 0.2, seed=3)
    assert np.bincount(split.held_y).tolist() == [10, 4, 2]
    assert sorted([*split.x[:, 0], *split.held_x[:, 0]]) == x[:, 0].tolist()
    assert np.array_equal(split.held_x, hold_back(x, y, 0.2, seed=3).held_x)
    assert not np.array_equal(split.held_x, hold_back(x, y, 0.2, seed=4).held_x)
    assert len(hold_back(x, y, 0.0, 0).held_y) == 0


def test_a_share_that_cannot_be_held_back_is_refused():
    with pytest.raises(UsageError, match="give a share from 0 to below 1"):
        hold_back(X, Y, 1.0, 0)
    with pytest.raises(DataError, match="too few to hold 10% of them back"):
        hold_back(X[:2], Y[:2], 0.1, 0)


# ---- wishes ----


def test_wishes_become_the_training_they_name():
    found = training_of(["budget=64KiB, layers=last4", "learning-rate=0.05", "refresh=yes", "batch=4"])
    assert found == sdk.Training(budget=65536, layers="last4", learning_rate=0.05, refresh=True, batch=4)
    assert training_of(["layers=fc+conv_2"]).layers == ("fc", "conv_2")
    assert training_of(None) is None and training_of([]) is None


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ("bugdet=64KiB", "--train 'bugdet=64KiB' is not known; write NAME=VALUE with one of batch, "),
        ("batch", "write NAME=VALUE"),
        ("batch=four", "--train batch=four is no whole number"),
        ("eps=much", "--train eps=much is no number"),
        ("refresh=maybe", "neither true nor false"),
        ("method=magic", "training method 'magic' is not known"),
        ("budget=64 sheep", "cannot be read"),
    ],
)
def test_a_wish_that_is_none_is_refused_in_one_sentence(wish, sentence):
    with pytest.raises(UsageError, match=sentence):
        training_of([wish])


# ---- the command ----


class Session:
    """A session whose training gives what the test wants."""

    def __init__(self, before: float, after: float) -> None:
        self.before, self.after, self.called = before, after, []

    def train(self, x, y, *, on_step, **options):
        self.called.append(("train", options))
        for step in range(1, 4):
            on_step(TrainStep(step, 0, 1.0 / step, 0.5, self.after if step == 3 else None, 1 << 20, 3))
        return TrainResult(3, (1.0, 0.5, 0.33), self.before, self.after, len(y) // 5, "done", 0.1, 1 << 20)

    def trained_artifact(self, progress):
        self.called.append(("trained_artifact", {}))
        return SimpleNamespace(is_linux=True, save=lambda where: self.called.append(("save", where)))

    def forget(self):
        self.called.append(("forget", {}))

    def close(self):
        self.called.append(("close", {}))


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run the command on a session: (exit code, session, files)."""

    def run(before: float, after: float, *options: str):
        session = Session(before, after)
        manifest = {"name": "net", "device": "host", "training": {}, "recipe": {}}
        artifact = SimpleNamespace(manifest=manifest, is_linux=True, flash=lambda *_args, **_options: session)
        monkeypatch.setattr(sdk, "open", lambda _folder: artifact)
        np.savez(tmp_path / "new.npz", x=X, y=Y)
        code = cli.main(["train", "out", "--data", str(tmp_path / "new.npz"), "--log", str(tmp_path / "log.jsonl"), *options])
        return code, session

    return run


def test_what_is_no_worse_becomes_the_artifact(command, tmp_path, capsys):
    code, session = command(0.5, 0.75, "--epochs", "2", "--seed", "7", "-o", "out2")
    assert code == 0 and [name for name, _ in session.called] == ["train", "trained_artifact", "save", "forget", "close"]
    assert session.called[0][1] == {"epochs": 2, "learning_rate": None, "decay": False, "held_out": 0.2, "patience": 0, "seed": 7, "resume": False}
    assert session.called[2][1] == "out2"
    assert "50.00 % before, 75.00 % after" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[2]["held_out"] == 0.75 and "held_out" not in lines[0]


def test_what_is_worse_leaves_everything_as_it_was(command, capsys):
    code, session = command(0.75, 0.5)
    assert code == 5 and [name for name, _ in session.called] == ["train", "forget", "close"]
    said = capsys.readouterr()
    assert "worse on 1 held-back samples (50.00 % after, 75.00 % before)" in said.err and said.out == ""


def test_a_dry_run_writes_nothing(command, capsys):
    code, session = command(0.5, 0.75, "--dry-run", "--json")
    assert code == 0 and [name for name, _ in session.called] == ["train", "forget", "close"]
    told = json.loads(capsys.readouterr().out)
    assert told["artifact"] is None and told["accuracy"] == 0.75 and told["losses"] == [1.0, 0.5, 0.33]


def test_an_artifact_that_cannot_learn_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sdk, "open", lambda _folder: SimpleNamespace(manifest={"name": "net"}))
    np.savez(tmp_path / "new.npz", x=X, y=Y)
    assert cli.main(["train", "out", "--data", str(tmp_path / "new.npz")]) == 2
    assert "compiled for inference only" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_is_told_before_training(command, tmp_path, capsys):
    code, session = command(0.5, 0.75, "--log", str(tmp_path / "absent" / "log.jsonl"))
    assert code == 2 and "cannot be written" in capsys.readouterr().err
    assert [name for name, _ in session.called] == ["close"]


def test_the_devices_half_holds_our_code_alone_and_is_the_same_every_time():
    names = zipfile.ZipFile(BytesIO(training_zipapp())).namelist()
    assert {"__main__.py", "sdk/__init__.py", "sdk/training/serve.py", "sdk/training/nn/trainer.py", "sdk/planner/training/spec.py"} <= set(names)
    assert not any(name.startswith(("sdk/commands", "sdk/backends", "firmware_bridge", "targets")) for name in names)
    training_zipapp.cache_clear()
    assert zipfile.ZipFile(BytesIO(training_zipapp())).namelist() == names
