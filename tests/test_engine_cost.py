"""Peak memory and latency of engines: the shipped table against what was measured, here and when it was made; the laws of the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import engine_fit, engine_nets, engines
from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.engine_cost import engine_table, latency, peak_memory, roofline
from sdk.planner.engine_work import NodeWork, work_of
from sdk.planner.recipes import Recipe
from sdk.runner import health
from sdk.runner.bundle import installed
from targets.detect import this_computer
from targets.device import load_device
from tests.data import shared

PACKAGES = {"onnx": "onnxruntime", "litert": "ai-edge-litert", "executorch": "executorch"}
SHARES = {"conv": 0.5, "depthwise": 0.1, "dense": 0.25, "bandwidth": 1.0, "node_s": 1e-6, "call_s": 1e-5}


@cache
def kept() -> Mapping[str, Any]:
    """The measurements that the table was made from."""
    return dict(json.loads(engines.OBSERVATIONS.read_text()))


# -- the table and the measurements it was made from -----------------------------------------------------------------


def test_the_table_says_where_it_comes_from() -> None:
    table = engine_table()
    assert table["source"] == "measured" and table["command"] == "python -m benchmarks.engines"
    assert table["date"] and table["machine"] and set(table["engines"]) == {"onnx", "litert", "executorch"}
    for entry in table["engines"].values():
        assert entry["version"] and entry["process_bytes"] > 16 << 20 and entry["thread_bytes"] >= 0 and entry["models"] >= 10
        assert all(figures[name] >= 0 for figures in entry["precisions"].values() for name in engine_fit.FACTORS)


@pytest.mark.long
def test_the_table_is_what_the_measurements_give() -> None:
    made, _ = engine_fit.fit(kept()["cases"], kept()["copy_bytes_s"])
    assert json.loads(json.dumps(made["engines"])) == engine_table()["engines"]


def test_the_table_meets_its_promise_over_ten_models_and_three_engines() -> None:
    cases = kept()["cases"]
    assert len({case["model"] for case in cases}) >= 10 and {case["engine"] for case in cases} == set(PACKAGES)
    entries = engine_table()["engines"]
    rows = [(engines.key(c), engine_fit.predicted(c, entries[c["engine"]]), engine_fit.peak_bytes(c, entries[c["engine"]])) for c in cases]
    assert [row for row in rows if abs(row[1] - row[2]) > engine_fit.allowed_bytes(row[2])] == []


# -- measured on this computer, now ----------------------------------------------------------------------------------


def measured_here(name: str, precisions: tuple[str, ...], wanted: str) -> Iterator[tuple[str, int, int]]:
    """(case, predicted, measured peak) of a model on an engine, in a fresh process; skips where the table is for something else."""
    table = engine_table()
    if this_computer()["cores"][0]["arch"] != table["arch"]:
        pytest.skip(f"the table was measured on {table['arch']}, which this computer is not")
    if installed(PACKAGES[wanted]) != table["engines"][wanted]["version"]:
        pytest.skip(f"needs {PACKAGES[wanted]} {table['engines'][wanted]['version']}, the version the table was measured with")
    for case in engines.observe(name, [1], engines=(wanted,), precisions=precisions, macs=0):
        yield engines.key(case), engine_fit.predicted(case, table["engines"][wanted]), engine_fit.peak_bytes(case, table["engines"][wanted])


def check(rows: Iterator[tuple[str, int, int]]) -> int:
    """How many cases there were; each within the promise."""
    found = list(rows)
    assert [row for row in found if abs(row[1] - row[2]) > engine_fit.allowed_bytes(row[2])] == []
    return len(found)


@pytest.mark.parametrize("engine", ["onnx", "litert"])
def test_a_small_net_takes_what_is_predicted(engine: str) -> None:
    pytest.importorskip("torch")
    assert check(measured_here("mobilenetv2_small", ("float32",), engine)) == 1


#: Nets that ExecuTorch compiles at every precision here; it takes minutes for each precision of the larger ones, which it gets at float32,
#: but for those that have others like them.
COMPILED_QUICKLY = ("probe_conv", "probe_dense", "mobilenetv2_small", "resnet_small", "vit_small", "text_small", "mcunet_like", "filters")
COMPILED_SLOWLY = ("vit_tiny", "mobilenetv2", "mobilenetv2_half", "resnet_half")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "engine"), [(name, engine) for name in engine_nets.names() for engine in PACKAGES if engine != "executorch" or name not in COMPILED_SLOWLY]
)
def test_every_model_takes_what_is_predicted(name: str, engine: str) -> None:
    pytest.importorskip("torch")
    if name.endswith("_int8") and engine != "litert":
        pytest.skip("a .tflite that came quantised runs on LiteRT only")
    precisions = ("float32", "int8", "dynamic-int8") if engine != "executorch" or name in COMPILED_QUICKLY else ("float32",)
    assert check(measured_here(name, precisions, engine)) >= (0 if name in engine_nets.FILES else 1)


@pytest.mark.long
@pytest.mark.parametrize("name", engine_nets.HELD_OUT)
def test_files_that_the_table_was_not_fitted_to_take_what_is_predicted(name: str) -> None:
    shared(engine_nets.HELD_OUT[name])
    rows = [row for engine in ("onnx", "litert") for row in measured_here(name, ("float32", "int8"), engine)]
    assert check(iter(rows)) >= 1


SMAPS = """\
55d0c0000000-55d0c0001000 r-xp 00000000 fe:00 11 /usr/bin/a python
Rss:                  64 kB
Anonymous:             0 kB
55d0c1000000-55d0c1001000 rw-p 00000000 00:00 0 [heap]
Rss:                4096 kB
Anonymous:          4096 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 12 /lib/libengine.so
Rss:                 100 kB
Anonymous:             0 kB
7f0000001000-7f0000002000 r-xp 00001000 fe:00 12 /lib/libengine.so
Rss:                 200 kB
Anonymous:             0 kB
7f0000002000-7f0000003000 rw-p 00002000 fe:00 12 /lib/libengine.so
Rss:                  30 kB
Anonymous:            20 kB
7f0000004000-7f0000005000 r--s 00000000 fe:00 13 /models/net.tflite
Rss:                 500 kB
Anonymous:             0 kB
7f0000006000-7f0000007000 r-xp 00000000 00:00 0 [vdso]
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me de
"""


def test_libraries_are_what_is_mapped_to_be_run(tmp_path: Path) -> None:
    """Pages that were written to are the process's own, and a model that is mapped is part of what the engine takes."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/smaps").write_text(SMAPS)
    assert health.library_bytes(tmp_path) == (64 + 100 + 200 + 30 - 20) << 10
    assert health.library_bytes(tmp_path / "nowhere") is None
    here = health.library_bytes()
    assert here is None or 1 << 20 < here < (health.memory()["peak_rss_bytes"] or 0)


# -- what is counted -------------------------------------------------------------------------------------------------


def net(side: int = 16) -> Graph:
    """A 3x3 convolution to 8 channels, a depthwise 3x3 one, a reshape and a dense layer to 10, on [1, side, side, 4] float32."""
    weights = {"w": (8, 3, 3, 4), "d": (1, 3, 3, 8), "v": (10, 8 * side * side), "b": (10,)}
    shapes = {"x": (1, side, side, 4), "c": (1, side, side, 8), "e": (1, side, side, 8), "r": (1, 8 * side * side), "y": (1, 10)}
    tensors = {name: Tensor(name, shape, "float32", data=np.ones(shape, np.float32)) for name, shape in weights.items()}
    tensors |= {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    nodes = (
        Node("conv", "conv2d", ("x", "w"), ("c",), {"stride": (1, 1)}), Node("depthwise", "depthwise_conv2d", ("c", "d"), ("e",)),
        Node("flat", "reshape", ("e",), ("r",)), Node("dense", "dense", ("r", "v", "b"), ("y",)),
    )  # fmt: skip
    return Graph("net", ("x",), ("y",), tensors, nodes)


def test_work_is_counted_by_hand() -> None:
    found = work_of(net(), 1000, "float32")
    assert (found.conv_weights_bytes, found.other_weights_bytes) == (4 * (8 * 9 * 4 + 9 * 8), 4 * (10 * 2048 + 10))
    assert found.activations_bytes == 1000
    assert found.window_bytes == 2 * 16 * 16 * 9 * 8
    conv, depthwise, dense = found.nodes
    assert conv == NodeWork("conv", 16 * 16 * 8 * 36, 4 * (16 * 16 * 4 + 8 * 36 + 16 * 16 * 8))
    assert depthwise == NodeWork("depthwise", 16 * 16 * 8 * 9, 4 * (2 * 16 * 16 * 8 + 72))
    assert dense == NodeWork("dense", 20480, 4 * (2048 + 20480 + 10 + 10))


def test_int8_weighs_a_quarter_and_dynamic_int8_only_in_its_weights() -> None:
    real, int8, dynamic = (work_of(net(), 1000, precision) for precision in ("float32", "int8", "dynamic-int8"))
    assert int8.conv_weights_bytes * 4 == dynamic.conv_weights_bytes * 4 == real.conv_weights_bytes
    assert int8.other_weights_bytes == 20480 + 40  # the bias stays at four bytes
    assert (int8.activations_bytes, dynamic.activations_bytes) == (250, 1000)
    assert [n.macs for n in int8.nodes] == [n.macs for n in real.nodes]
    assert all(i.moved_bytes < d.moved_bytes < r.moved_bytes for i, d, r in zip(int8.nodes, dynamic.nodes, real.nodes, strict=True))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("engine", PACKAGES)
def test_a_prediction_is_its_parts_and_grows_with_the_model(engine: str, precision: str) -> None:
    small, large = (peak_memory(plan_of(net(side)), Recipe(engine, precision, 1), load_device("host")) for side in (16, 64))
    assert small is not None and large is not None
    assert small.total_bytes == small.engine_bytes + small.weights_bytes + small.activations_bytes < large.total_bytes
    assert engine_table()["engines"][engine]["version"] in small.basis
    elsewhere = peak_memory(plan_of(net()), Recipe(engine, precision, 1), load_device("rpi-4b"))
    assert elsewhere is not None and "take it as a guide" in elsewhere.basis


def plan_of(graph: Graph) -> Any:
    """What the prediction reads of a plan."""
    return SimpleNamespace(graph=graph, arena_bytes=(4 * 2 * 8 * 16 * 16,))


def test_what_was_never_measured_is_not_predicted() -> None:
    host = load_device("host")
    for recipe in (Recipe("tensorrt", "float16"), Recipe("litert", "dynamic-int8")):
        assert peak_memory(plan_of(net()), recipe, host) is None
    assert latency(plan_of(net()), Recipe("onnx", "float32"), host) is None  # the shipped file has no rates


def test_a_plan_tells_times_with_measured_rates_only(tmp_path: Path) -> None:
    path = tmp_path / "here.toml"
    rates = {"onnx/float32/1t": "macs_s = 50_000_000_000", "memcpy/1t": "bytes_s = 9_000_000_000", "onnx/int8/1t": "macs_s = 100_000_000_000"}
    path.write_text('name = "here"\nextends = "host"\n' + "".join(f'[[rates]]\nname = "{name}"\n{value}\n' for name, value in rates.items()))
    device = load_device(path)
    real, int8 = (latency(plan_of(net()), Recipe("onnx", precision), device) for precision in ("float32", "int8"))
    assert real is not None and int8 is not None and real.seconds > 0 and int8.seconds > 0
    assert real.error == engine_table()["engines"]["onnx"]["precisions"]["float32"]["latency"]["error"] >= 1
    assert "here" in real.basis and "not known" not in real.basis
    svd = Graph("svd", ("x",), ("y",), {n: Tensor(n, (8,), "float32") for n in "xy"}, (Node("svd", "opaque", ("x",), ("y",), {"kind": "svd"}),))
    odd = latency(plan_of(svd), Recipe("onnx", "float32"), device)
    assert odd is not None and "The arithmetic of 1 unnamed op(s) is not known" in odd.basis
    assert latency(plan_of(net()), Recipe("onnx", "float32", 2), device) is None
    assert latency(plan_of(net()), Recipe("litert", "float32"), device) is None


# -- the roofline ----------------------------------------------------------------------------------------------------

NODES = st.lists(
    st.builds(NodeWork, st.sampled_from(engine_fit.KINDS), st.integers(0, 10**9), st.integers(0, 10**8)).map(
        lambda n: NodeWork(n.kind, 0 if n.kind == "other" else n.macs, n.moved_bytes)
    ),
    max_size=20,
)


def test_a_node_takes_its_arithmetic_or_its_bytes_whichever_is_longer() -> None:
    fixed = SHARES["call_s"] + SHARES["node_s"]
    assert roofline([NodeWork("conv", 10**9, 1)], SHARES, 1e10, 1e9) == pytest.approx(10**9 / 0.5e10 + fixed)
    assert roofline([NodeWork("conv", 1, 10**9)], SHARES, 1e10, 1e9) == pytest.approx(10**9 / 2e9 + fixed)
    assert roofline([], SHARES, 1e10, 1e9) == SHARES["call_s"]


@settings(max_examples=50, deadline=None)
@given(NODES, st.floats(1e8, 1e12), st.floats(1e8, 1e11))
def test_a_device_twice_as_fast_takes_between_half_and_all_of_the_time(nodes: list[NodeWork], macs_s: float, copies: float) -> None:
    slow, fast = roofline(nodes, SHARES, macs_s, copies), roofline(nodes, SHARES, 2 * macs_s, 2 * copies)
    assert slow / 2 <= fast * (1 + 1e-9) and fast <= slow * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(NODES, st.floats(1e8, 1e12), st.floats(1e8, 1e11))
def test_the_fits_arrays_give_what_the_planner_computes(nodes: list[NodeWork], macs_s: float, copies: float) -> None:
    case = {"conv_weights_bytes": 0, "other_weights_bytes": 0, "activations_bytes": 0, "window_bytes": 0, "min_ms": 1.0}
    case["nodes"] = [[n.kind, n.macs, n.moved_bytes] for n in nodes]  # type: ignore[assignment]
    found = engine_fit.timed(case, macs_s, copies).seconds(SHARES)
    assert found == pytest.approx(roofline(nodes, SHARES, macs_s, copies), rel=1e-9)


# -- the fit ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_least_squares_without_negative_values_is_at_its_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, y = rng.random((12, 4)), rng.standard_normal(12)
    x = engine_fit.nonnegative(a, y)
    gradient = a.T @ (a @ x - y)
    assert (x >= 0).all() and (gradient > -1e-5).all() and np.abs(gradient * x).max() < 1e-5


def test_the_fit_finds_an_engine_of_known_appetite() -> None:
    rng = np.random.default_rng(0)
    own = {"conv_weights": 3.0, "other_weights": 2.0, "activations": 1.5, "windows": 1.0, "node_bytes": 4000.0}
    truth = {"process_bytes": 50 << 20, "thread_bytes": 1 << 20, "precisions": {"float32": own}}
    cases = [made_up(rng, threads) for threads in (1, 2) for _ in range(15)]
    for case in cases:
        case["peak_rss_bytes"] = engine_fit.predicted(case, truth)
    found = engine_fit.fit_memory(cases)
    assert found["process_bytes"] == pytest.approx(truth["process_bytes"], rel=0.01)
    off = [abs(engine_fit.predicted(case, found) - case["peak_rss_bytes"]) / engine_fit.allowed_bytes(case["peak_rss_bytes"]) for case in cases]
    assert max(off) < 0.1
    assert max(abs(p - c["peak_rss_bytes"]) / engine_fit.allowed_bytes(c["peak_rss_bytes"]) for c, p in engine_fit.unseen_memory(cases)) < 0.2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_what_the_page_cache_holds_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases = [{**made_up(rng, 1), "peak_rss_bytes": int(rng.integers(60, 200)) << 20} for _ in range(6)]
    cached = engine_fit.fit_memory(cases)
    more = [int(pages) << 12 for pages in rng.integers(0, 4000, len(cases))]
    moved = [{**c, "peak_rss_bytes": c["peak_rss_bytes"] + m, "library_bytes": c["library_bytes"] + m} for c, m in zip(cases, more, strict=True)]
    assert [engine_fit.peak_bytes(c, cached) for c in moved] == [engine_fit.peak_bytes(c, cached) for c in cases]
    own = [engine_fit.fit_memory(found) for found in (cases, moved)]
    assert own[1]["process_bytes"] - own[0]["process_bytes"] == pytest.approx(own[1]["library_bytes"] - own[0]["library_bytes"], abs=4 << 20)


def made_up(rng: np.random.Generator, threads: int) -> dict[str, Any]:
    sizes = {f"{name}_bytes": int(10 ** rng.uniform(4, 7.5)) for name in ("conv_weights", "other_weights", "activations", "window")}
    nodes = [["conv", 1000, 1000]] * int(rng.integers(5, 100))
    return {**sizes, "nodes": nodes, "model": str(rng.integers(10**9)), "precision": "float32", "threads": threads, "version": "1", "library_bytes": 30 << 20}
