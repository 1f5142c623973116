"""`embarq fit`: a network chosen for the device's memory out of a shipped supernet, with or without pictures of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import sdk  # noqa: E402
from sdk.cli import main  # noqa: E402
from sdk.errors import DataError, DoesNotFit, ModelError, UsageError  # noqa: E402
from sdk.prepare.moofa import shipped  # noqa: E402
from sdk.prepare.moofa.nn import shelf, store  # noqa: E402
from sdk.prepare.moofa.nn.data import batches  # noqa: E402
from sdk.prepare.moofa.nn.elastic import Supernet  # noqa: E402
from sdk.prepare.moofa.nn.norm import reestimate  # noqa: E402
from sdk.prepare.moofa.nn.recipe import sandwich  # noqa: E402
from sdk.prepare.moofa.nn.train import train  # noqa: E402
from sdk.prepare.moofa.space import Ladder, largest, sample, smallest  # noqa: E402

LADDER = Ladder("tiny", 8, 8, (8, 16), 24, 0, (2, 2, 2), ("relu", "relu", "hswish"), (False, False, True), depths=(1, 2), resolutions=(12, 16))
NAMES = ("red", "green", "blue", "grey")


def tinted(count: int, seed: int = 0, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [count, side, side, 3] whose class is their tint."""
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 60, (count, side, side, 3), dtype=np.uint8), random.integers(0, len(NAMES), count)
    for i, label in enumerate(y):
        x[i, :, :, label : label + 1] += 150
    return x, y


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped supernet that knows tints; larger subnets are said to be more accurate."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("shipped")
    net = Supernet(LADDER, len(NAMES))
    train(net, *tinted(256), sandwich(LADDER, 12, 0.2, batch=64))
    random = Random(0)
    nets = [smallest(LADDER), largest(LADDER), *(sample(LADDER, random) for _ in range(20))]
    whole = [smallest(LADDER), largest(LADDER), nets[5]]
    shelf.save(made / "tints_shelf.npz", [shelf.statistics(reestimate(net.extract(n), batches(tinted(256)[0], n.resolution))) for n in whole])
    kept = [{"subnet": n.to_json(), "accuracy": 0.95 + 0.01 * i} for i, n in enumerate((whole[0], whole[2], whole[1]))]
    kept = [kept[0], kept[2], kept[1]]
    measured = [{"subnet": n.to_json(), "accuracy": 0.5 + 0.01 * (sum(n.depths) + sum(n.expansions) + n.resolution / 4)} for n in nets]
    store.save(net, made / "tints", {"class_names": NAMES, "task": "tints", "measured": measured, "shelf": kept})
    np.savez_compressed(made / "tints_samples.npz", x=tinted(64)[0], y=tinted(64)[1])
    return made


@pytest.fixture(autouse=True)
def tints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", folder)
    torch.set_num_threads(1)


def answers(session: Any, x: np.ndarray) -> np.ndarray:
    """The board's answers to uint8 pictures [n, H, W, 3]."""
    return np.array([np.asarray(session.run((picture[None] / 255).astype(np.float32))).argmax() for picture in x])


def test_a_network_is_made_for_the_board_without_any_training() -> None:
    fitted = sdk.fit("stm32f746", "tints")
    assert fitted.cost["arena_bytes"] == fitted.artifact.manifest["cost"]["arena_bytes"] and fitted.class_names == NAMES
    x, y = tinted(24, 5, fitted.subnet.resolution)
    with fitted.artifact.flash("emulator") as session:
        assert (answers(session, x) == y).mean() > 0.9
    assert fitted.subnet == largest(LADDER) and fitted.accuracy == 0.97
    assert "Nothing was trained" in str(fitted) and "97.0 %, measured on held-back tints pictures" in str(fitted) and "costs accuracy" not in str(fitted)


def test_a_tight_budget_is_kept_and_chooses_a_smaller_network() -> None:
    free = sdk.fit("stm32f746", "tints")
    least = sdk.fit("stm32f746", "tints", budget=free.cost["arena_bytes"] - 500)
    assert least.cost["arena_bytes"] <= free.cost["arena_bytes"] - 500 and least.subnet != free.subnet


def test_where_no_whole_subnet_fits_one_is_searched_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped.Shipped, "shelf", property(lambda self: []))
    fitted = sdk.fit("stm32f746", "tints")
    assert "as predicted from 22 subnets" in str(fitted) and "which costs accuracy: give data" in str(fitted)


def test_statistics_of_another_subnet_are_refused(folder: Path) -> None:
    net = shipped.shipped("tints").load()
    with pytest.raises(ModelError, match="they are another subnet's"):
        shelf.put(net.extract(largest(LADDER)), shelf.load(folder / "tints_shelf.npz", 0))
    with pytest.raises(ModelError, match="hold no subnet 7"):
        shelf.load(folder / "tints_shelf.npz", 7)


@pytest.mark.long
def test_several_limits_hold_at_once() -> None:
    fitted = sdk.fit("stm32f746", "tints", budget={"macs": 60_000, "arena_bytes": "3KiB"})
    assert fitted.cost["macs"] <= 60_000 and fitted.cost["arena_bytes"] <= 3072


@pytest.mark.long
def test_an_impossible_budget_is_answered_with_the_smallest_that_would_do() -> None:
    with pytest.raises(DoesNotFit, match="bytes") as caught:
        sdk.fit("stm32f746", "tints", budget=300)
    smallest_bytes = int("".join(c for c in str(caught.value).split("give")[-1] if c.isdigit()) or 0)
    assert smallest_bytes > 300 and sdk.fit("stm32f746", "tints", budget=smallest_bytes).cost["arena_bytes"] <= smallest_bytes


@pytest.mark.parametrize("tune", ["head", pytest.param("all", marks=pytest.mark.long)])
def test_it_learns_classes_of_ones_own(tune: str) -> None:
    x, y = tinted(150, 7, 20)  # pictures of another size
    fitted = sdk.fit("stm32f746", "tints", data=(x, y // 2), tune=tune, epochs=3)
    assert fitted.artifact.manifest["outputs"][0]["shape"] == [1, 2]
    assert fitted.accuracy > 0.9 and fitted.accuracy_of == "of the int8 network on 30 held-back pictures of yours"


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"task": "letters"}, UsageError, "task 'letters' is not known; choose from tints"),
        ({"tune": "tail"}, UsageError, "'tail', which is not known"),
        ({"data": (np.zeros((20, 3, 8, 8), np.float32), np.zeros(20, int))}, DataError, "pictures must be uint8"),
        ({"data": (tinted(20)[0], np.zeros(19, int))}, DataError, "20 pictures and 19 labels"),
        ({"data": (tinted(20)[0], np.full(20, 0.5))}, DataError, "labels must be integers"),
        ({"data": (tinted(20)[0], np.zeros(20, int))}, UsageError, "pictures of two classes"),
        ({"data": tinted(20), "held_out": 1.0}, UsageError, "held-out share of 1"),
    ],
)
def test_wrong_wishes_are_answered_in_a_sentence(options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        sdk.fit("stm32f746", **{"task": "tints", **options})


def test_without_torch_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sdk.prepare.moofa.nn.tune", None)
    with pytest.raises(UsageError, match="torch is not installed; pip install"):
        sdk.fit("stm32f746", "tints")


def test_the_command_writes_proves_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "out"
    assert main(["fit", "--device", "stm32f746", "--task", "tints", "-o", str(where), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] and told["device"] == "stm32f746" and told["class_names"] == list(NAMES)
    assert json.loads((tmp_path / "out.fit.json").read_text())["subnet"] == told["subnet"]
    assert sdk.open(where).name == "tints"
    assert main(["fit", "stm32f746", "--task", "tints", "--ram", "300", "-o", str(where)]) == 3
    assert main(["fit", "stm32f746", "kws.tflite"]) == 2


@pytest.mark.long
def test_a_network_for_a_computer(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    fitted = sdk.fit("host", "tints", data=tinted(150, 7), tune="all", epochs=3, backend="onnx", threads=1)
    assert fitted.accuracy > 0.9 and fitted.artifact.is_linux
