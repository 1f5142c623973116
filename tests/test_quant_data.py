"""Calibration data: every kind of source gives the same samples, and whatever does not fit is told in one sentence with the mend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdk.data import Calibration, image_folder, read
from sdk.errors import DataError
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph
from sdk.passes.calibrate import batch_size, observe
from sdk.passes.quantise import quantise
from tests.small_models import float_cnn


def image_net(channels_first: bool = False) -> Graph:
    """A net on [1, 6, 4, 3] (or [1, 3, 6, 4]) pictures that returns them."""
    b = Builder("pictures")
    return b.graph([b.op("relu", b.input("x", (1, 3, 6, 4) if channels_first else (1, 6, 4, 3), "float32"))])


def two_inputs() -> Graph:
    b = Builder("pair")
    return b.graph([b.op("add", b.input("a", (1, 4), "float32"), b.input("b", (1, 4), "float32"), activation="none")])


def all_of(found: Calibration, name: str = "x") -> np.ndarray:
    return next(found.batches(found.count))[name]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 6, 4, 3)).astype(np.float32)


def sources(x: np.ndarray, folder: Path) -> Iterator[tuple[str, object]]:
    """Every way to hand over the same five samples."""
    import torch

    np.save(folder / "a.npy", x)
    np.savez(folder / "named.npz", x=x, labels=np.arange(5))
    np.savez(folder / "lone.npz", pictures=x, labels=np.arange(5))
    (folder / "each").mkdir()
    for i, sample in enumerate(x):
        np.save(folder / "each" / f"{i}.npy", sample if i % 2 else sample[None])
    yield "array", x
    yield "doubles", x.astype(np.float64)
    yield "tensor", torch.from_numpy(x)
    yield "mapping", {"x": x}
    yield "npy", folder / "a.npy"
    yield "path as text", str(folder / "a.npy")
    yield "npz by name", folder / "named.npz"
    yield "npz by shape", folder / "lone.npz"
    yield "folder", folder / "each"
    yield "list of samples", list(x)
    yield "generator", (s[None] for s in x)
    yield "batches", iter([x[:2], x[2:]])
    yield "pairs with labels", [(s, 1) for s in x]
    yield "mappings", [{"x": s} for s in x]
    yield "function", lambda: iter(x)
    yield "loader", torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x), torch.arange(5)), batch_size=2)
    yield "calibration", read(x, image_net())


def test_each_kind_of_source_gives_the_same_samples(x: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    kinds = []
    for kind, source in sources(x, tmp_path):
        found = read(source, image_net())
        assert found.count == 5, kind
        np.testing.assert_allclose(all_of(found), x, rtol=1e-6, err_msg=kind)
        np.testing.assert_array_equal(all_of(found), all_of(found), err_msg=f"{kind}: a second time")
        kinds.append(kind)
    assert len(kinds) == 17


def test_two_inputs_are_fed_by_name_or_in_order() -> None:
    a, b = np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32)
    for source in ({"b": b, "a": a}, (a, b), [(p, q) for p, q in zip(a, b, strict=True)], [{"a": p, "b": q} for p, q in zip(a, b, strict=True)]):
        batch = next(read(source, two_inputs()).batches(3))
        np.testing.assert_array_equal(batch["a"], a)
        np.testing.assert_array_equal(batch["b"], b)


def test_pictures_are_resized_scaled_and_laid_out(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(3):
        image.fromarray(np.full((12, 8, 3), (i * 100, 50, 0), np.uint8)).save(tmp_path / f"{i}.png")
    last = all_of(read(tmp_path, image_net()))
    assert last.shape == (3, 6, 4, 3)
    np.testing.assert_allclose(last[:, 0, 0], [[0, 50 / 255, 0], [100 / 255, 50 / 255, 0], [200 / 255, 50 / 255, 0]], rtol=1e-5)
    first = all_of(read(tmp_path, image_net(channels_first=True)))
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    shifted = all_of(image_folder(tmp_path, image_net(), scale=1.0, mean=(10, 20, 30), std=(2.0,)))
    np.testing.assert_allclose(shifted[1, 0, 0], [45, 15, -15], rtol=1e-5)


def test_more_than_wanted_is_thinned_evenly_and_streams_are_cut() -> None:
    graph = two_inputs()
    many = np.repeat(np.arange(100, dtype=np.float32)[:, None], 4, axis=1)
    found = read((many, many), graph, limit=10)
    assert all_of(found, "a")[:, 0].tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99], "sorted by class, all classes are seen"
    taken = []

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in many:
            taken.append(1)
            yield row, row

    assert read(stream(), graph, limit=10).count == 10 and len(taken) == 10


WRONG = [
    (np.zeros((2, 4, 6, 3), np.float32), r"the array has shape \[2, 4, 6, 3\] where input x wants \[n, 6, 4, 3\]; give samples of the model's own size"),
    (np.zeros((2, 3, 6, 4), np.float32), r"wants \[n, 6, 4, 3\]; move the channels last \(x.transpose\(0, 2, 3, 1\)\)"),
    (np.zeros((6, 4, 3), np.float32), r"the array has shape \[6, 4, 3\] .*; add the first dimension \(x\[None\]\)"),
    (np.zeros((0, 6, 4, 3), np.float32), r"the array is empty .*; give at least one sample of shape \[n, 6, 4, 3\]"),
    ([], r"calibration data is empty; give at least one sample"),
    (np.zeros((2, 6, 4, 3), np.uint8), r"is uint8 where input x wants float32; scale it as in training, for example x.astype\('float32'\) / 255"),
    (np.zeros((2, 6, 4, 3), np.complex64), r"is complex64 where input x wants float32; convert it"),
    ({"y": np.zeros((2, 6, 4, 3), np.float32)}, r"gives y but the model also reads x; add an array for it"),
    ([{"y": 1}], r"a sample gives y but the model also reads x; add it"),
    (7, r"calibration data is a int; give an array, a file, a folder or something that yields samples"),
    ([[1.0, [2.0]]], r"calibration data for x is no array .*; give samples of one shape"),
    ("nowhere", r"calibration data nowhere does not exist; give a .npy or .npz file, or a folder"),
]


@pytest.mark.parametrize(("source", "sentence"), WRONG)
def test_what_does_not_fit_is_one_sentence(source: object, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=sentence) as raised:
        read(source, image_net())
    assert "\n" not in str(raised.value)


def test_wrong_files_are_one_sentence(tmp_path: Path, x: np.ndarray) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    (tmp_path / "b.npy").write_bytes(b"no array")
    np.savez(tmp_path / "c.npz", one=x[0, 0], two=x[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "many").mkdir()
    np.save(tmp_path / "many" / "0.npy", x)
    np.save(tmp_path / "d.npy", np.array([{}], object), allow_pickle=True)
    for name, sentence in {
        "a.csv": "is no .npy or .npz; save it with numpy.save",
        "b.npy": "cannot be read|is damaged",
        "c.npz": r"holds one \[4, 3\], two \[6, 4, 3\]; name one array 'x' or 'x', of shape",
        "empty": "holds no pictures .*; give the folder that does",
        "many": r"0.npy holds 5 samples; in a folder each .npy file holds one",
        "d.npy": "cannot be read .*; save plain arrays",
    }.items():
        with pytest.raises(DataError, match=sentence):
            all_of(read(tmp_path / name, image_net()))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "cat.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cat.png cannot be read .*; remove it from the folder or save it again"):
        all_of(read(tmp_path, image_net()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_told_where_they_are(bad: float) -> None:
    graph = float_cnn()
    x = np.ones((3, 12, 12, 3), np.float32)
    x[1, 2, 3, 0] = bad
    with pytest.raises(DataError, match="calibration data holds NaN or infinity in input x; clean the samples"):
        quantise(graph, x)


def test_a_net_that_overflows_is_told_with_the_node() -> None:
    b = Builder("loud")
    graph = b.graph([b.op("mul", b.input("x", (1, 4), "float32"), b.const("ten", np.full(4, 10, np.float32)), activation="none")])
    with pytest.raises(DataError, match=r"tensor mul.out of node mul \(mul\) became NaN or infinite on the calibration data; check how the samples"):
        quantise(graph, np.full((2, 4), 1e38, np.float32))


def test_one_input_wants_an_array_for_each_when_there_are_two() -> None:
    with pytest.raises(DataError, match="one array feeds one input but the model reads a, b; give a dict with an array for each"):
        read(np.ones((2, 4), np.float32), two_inputs())
    with pytest.raises(DataError, match="gives 2 samples of a, 3 samples of b; give as many of each"):
        read({"a": np.ones((2, 4), np.float32), "b": np.ones((3, 4), np.float32)}, two_inputs())


def test_figures_do_not_depend_on_how_the_samples_are_batched() -> None:
    graph = float_cnn()
    x = np.random.default_rng(0).standard_normal((150, 12, 12, 3)).astype(np.float32)
    assert batch_size(graph) == 64
    whole, halves = observe(graph, read(x, graph)), [observe(graph, read(part, graph)) for part in (x[:70], x[70:])]
    for name, stats in whole.items():
        merged = halves[0][name].merged(halves[1][name])
        assert (merged.low, merged.high) == pytest.approx((stats.low, stats.high), rel=1e-5) and merged.samples == 150, name
        np.testing.assert_allclose(merged.channel_power, stats.channel_power, rtol=1e-6)
        np.testing.assert_allclose(merged.channel_peak, stats.channel_peak, rtol=1e-5)  # a batch's size changes the order of float sums
        assert merged.histogram is not None and merged.histogram.counts.sum() == stats.histogram.counts.sum()
    assert whole["x"].low == x.min() and whole["x"].high == x.max()


def test_progress_is_told() -> None:
    graph, seen = float_cnn(), []
    quantise(graph, np.ones((70, 12, 12, 3), np.float32), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 70), (70, 70)]
