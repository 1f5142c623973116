"""The whole way of a model that learns, by the command line: compile, train, and the artifact that comes of it; here, over SSH, on a board."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdk import cli
from tests.ssh_server import needs_sshd, ssh_server

torch = pytest.importorskip("torch", reason="needs torch")


def task(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures float32 [n, 1, 8, 8] with a bright quarter, and which of the four it is, int64 [n]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    x = 0.3 * rng.standard_normal((count, 1, 8, 8))
    for row, label in zip(x, y, strict=True):
        row[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1.0
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.pt2, an untrained net for the task, and data.npz."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 4)
    ).eval()
    root = tmp_path_factory.mktemp("learning")
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)), root / "net.pt2")
    x, y = task(160, 1)
    np.savez(root / "data.npz", x=x, y=y)
    return root


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Path:
    """The artifact for this computer."""
    wish = "batch=16,learning-rate=0.1,optimiser=momentum"
    assert cli.main(["compile", "host", str(folder / "net.pt2"), "-c", str(folder / "data.npz"), "--train", wish, "-o", str(folder / "out"), "-q"]) == 0
    return folder / "out"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def told(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    """What a command prints with --json; it must succeed."""
    capsys.readouterr()
    assert cli.main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_learns_here_and_becomes_a_new_artifact(compiled, tmp_path, capsys):
    before = bytes_of(compiled)
    log, new = tmp_path / "log.jsonl", tmp_path / "new"
    data = str(compiled.parent / "data.npz")
    found = told(capsys, "train", str(compiled), "--data", data, "--epochs", "6", "--log", str(log), "-o", str(new))
    assert found["accuracy"] >= 0.9 > 0.6 > found["accuracy_before"] and found["held_out"] == 32 and found["steps"] == len(found["losses"]) == 48
    assert bytes_of(compiled) == before, "the artifact it was trained from stays as it was"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 49)) and rows[-1]["epoch"] == 6 and rows[-1]["held_out"] == found["accuracy"]
    x, y = task(64, 2)
    np.save(tmp_path / "x.npy", x)
    assert cli.main(["verify", str(new), "-q"]) == 0
    assert cli.main(["run", str(new), "-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy"), "-q"]) == 0
    assert (np.load(tmp_path / "y.npy").reshape(64, 4).argmax(1) == y).mean() >= 0.9, "what it learned holds for samples it has not seen"


@pytest.mark.long
def test_what_it_learned_is_where_it_goes_on_from(compiled, tmp_path, capsys):
    data, new = str(compiled.parent / "data.npz"), str(tmp_path / "new")
    first = told(capsys, "train", str(compiled), "--data", data, "--epochs", "4", "-o", new)
    second = told(capsys, "train", new, "--data", data, "--learning-rate", "0.01")
    assert second["accuracy_before"] == pytest.approx(first["accuracy"]) and second["losses"][0] < 0.5 * first["losses"][0]


def test_a_run_that_diverges_leaves_everything_as_it_was(compiled, capsys):
    before = bytes_of(compiled)
    assert cli.main(["train", str(compiled), "--data", str(compiled.parent / "data.npz"), "--learning-rate", "1e12"]) == 5
    said = capsys.readouterr().err
    assert "lower the learning rate" in said or "worse on" in said
    assert bytes_of(compiled) == before and said.count("\n") == 1


def test_labels_that_no_class_has_are_refused(compiled, tmp_path, capsys):
    x, y = task(20, 3)
    np.savez(tmp_path / "wrong.npz", x=x, y=y + 1)
    assert cli.main(["train", str(compiled), "--data", str(tmp_path / "wrong.npz")]) == 2
    assert "is none of the model's 4 classes" in capsys.readouterr().err


def test_a_plan_for_a_budget_too_small_is_refused_with_what_would_do(folder, capsys):
    args = ["plan", "host", str(folder / "net.pt2"), "-c", str(folder / "data.npz"), "--train", "budget=1MiB"]
    assert cli.main(args) == 3
    assert "the smallest that trains what was asked" in " ".join(capsys.readouterr().out.split())


def test_training_without_labels_is_refused(folder, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    assert cli.main(["plan", "host", str(folder / "net.pt2"), "--train", "batch=4"]) == 2
    assert cli.main(["plan", "host", str(folder / "net.pt2"), "-c", str(tmp_path / "x.npz"), "--train", "batch=4"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "give -c DATA.npz with inputs x and labels y" in first and "no .npz with inputs x" in second


def test_a_board_learns_and_its_values_travel_with_the_artifact(folder, tmp_path, capsys):
    for library in ("ziglang", "unicorn"):
        pytest.importorskip(library)
    model, data, out, new = str(folder / "net.pt2"), str(folder / "data.npz"), str(tmp_path / "out"), str(tmp_path / "new")
    assert cli.main(["compile", "stm32f746", model, "-c", data, "--train", "learning-rate=0.02", "-o", out, "-q"]) == 0
    found = told(capsys, "train", out, "--data", data, "--epochs", "2", "-o", new)
    assert found["accuracy"] >= 0.8 > 0.6 > found["accuracy_before"] and found["instructions"] > 0
    again = told(capsys, "train", new, "--data", data, "--learning-rate", "1e-6", "--dry-run")
    assert again["accuracy_before"] == pytest.approx(found["accuracy"], abs=1e-9)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    with ssh_server(tmp_path) as running:
        monkeypatch.setenv("HOME", str(running.home))
        yield running


@pytest.mark.long
@needs_sshd()
def test_a_device_behind_ssh_learns_and_gets_the_new_artifact(compiled, server, tmp_path, capsys):
    import sys

    target = server.target(server.folder, python=sys.executable)
    data, new = str(compiled.parent / "data.npz"), str(tmp_path / "new")
    found = told(capsys, "train", str(compiled), "--data", data, "--epochs", "6", "--to", target, "-o", new)
    assert found["accuracy"] >= 0.9
    assert cli.main(["verify", new, "--to", target, "-q"]) == 0
