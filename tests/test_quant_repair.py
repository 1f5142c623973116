"""What repairs an int8 net, and what tells where: bias correction, equalisation, the report, mixed precision proven on a board."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import sdk
from sdk.data import read
from sdk.errors import UsageError
from sdk.graph.builder import Builder
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.quantmath import dequantise_array, quantise_array
from sdk.passes.calibrate import observe
from sdk.passes.equalise import equalise, pairs
from sdk.passes.mixed_precision import auto_mixed
from sdk.passes.quant_report import QuantReport, output_sqnr, report
from sdk.passes.quantise import QuantOptions, quantise

NONE = ((0, 0), (0, 0))
PLAIN = QuantOptions(bias_correction=False, equalise=False)
BOARD = "stm32f746"


def images(count: int, seed: int = 1) -> np.ndarray:
    """[count, 8, 8, 4] float32."""
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 4)).astype(np.float32)


def chain(scales: np.ndarray | None = None, activation: str = "relu", loud: str = "") -> Graph:
    """Three 1x1 convolutions, a mean, a dense layer. Channel `i` of the first is `scales[i]` times what the next undoes.

    `loud`: the name of a layer whose channel 0 is 300 times larger than the others and read by nothing.
    """
    rng = np.random.default_rng(0)
    b = Builder("chain")
    factor = np.ones(8, np.float32) if scales is None else scales.astype(np.float32)
    value = b.input("x", (1, 8, 8, 4), "float32")
    quiet = np.ones(4, np.float32)
    for name, undo, do in (("one", quiet, factor), ("two", 1 / factor, np.ones(8, np.float32)), ("three", np.ones(8, np.float32), np.ones(8, np.float32))):
        w = rng.standard_normal((8, 1, 1, len(undo))).astype(np.float32) * do[:, None, None, None] * undo / 2
        w[..., 0] = 0 if value.startswith(loud or "?") else w[..., 0]
        w[0] *= 300 if name == loud else 1
        b.scope = name
        bias = b.const(f"{name}.b", rng.standard_normal(8).astype(np.float32) * 0.1 * do)
        value = b.op("conv2d", value, b.const(f"{name}.w", w), bias, stride=(1, 1), dilation=(1, 1), padding=NONE, groups=1, activation=activation)
    b.scope = "mean"
    value = b.op("mean", value, axes=(1, 2), keep_dims=False)
    w = rng.standard_normal((5, 8)).astype(np.float32)
    w[:, 0] = 0 if loud == "three" else w[:, 0]
    b.scope = "last"
    return b.graph([b.op("dense", value, b.const("last.w", w), b.const("last.b", np.zeros(5, np.float32)), activation="none")])


def outputs(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The graph's one output as real numbers, for real inputs."""
    tensor, out = graph["x"], graph[graph.outputs[0]]
    if tensor.quant is not None:
        x = quantise_array(x, tensor.scale, tensor.zero_point, tensor.dtype)
    y = run(graph, {"x": x})[graph.outputs[0]]
    return y if out.quant is None else dequantise_array(y, out.quant)


# -- bias correction ---------------------------------------------------------------------------------------------------


def shifted() -> tuple[Graph, QuantOptions]:
    """A net whose percentile clips one side of every rectified activation: a shift that adds up from layer to layer."""
    return chain(), QuantOptions(range="percentile", percentile=97, equalise=False, bias_correction=False)


def test_bias_correction_lowers_the_mean_error_on_other_data() -> None:
    graph, plain = shifted()
    corrected = QuantOptions(range="percentile", percentile=97, equalise=False)
    other = images(256, seed=9)
    real = outputs(graph, other)
    errors = [np.abs((outputs(quantise(graph, images(256), o), other) - real).mean(0)).max() for o in (plain, corrected)]
    assert errors[1] < 0.35 * errors[0], errors


def test_bias_correction_does_not_depend_on_which_samples_the_means_are_of() -> None:
    """Calibration data sorted by brightness: means of its beginning differ from means of all, and that is no error of the net."""
    graph = chain()
    x = images(256) + np.linspace(-2, 2, 256, dtype=np.float32)[:, None, None, None]
    batch = {"x": x[::8]}
    plain = output_sqnr(graph, quantise(graph, x, PLAIN), batch)
    corrected = output_sqnr(graph, quantise(graph, x, QuantOptions(equalise=False)), batch)
    assert corrected > plain - 1.0, (plain, corrected)


# -- equalisation ------------------------------------------------------------------------------------------------------

SPREAD = {"none": np.geomspace(0.01, 100, 8), "relu": np.geomspace(0.01, 100, 8), "relu6": np.geomspace(0.01, 1, 8)}


@pytest.mark.parametrize("activation", SPREAD)
def test_equalisation_keeps_the_function_and_mends_badly_scaled_channels(activation: str) -> None:
    graph, x = chain(SPREAD[activation], activation), images(64)
    balanced = equalise(graph, observe(graph, read(x, graph), histograms=False))
    moved = [n for n in ("one.w", "two.w") if not np.array_equal(balanced[n].data, graph[n].data)]
    assert moved == ["one.w", "two.w"]
    real, again = outputs(graph, x), outputs(balanced, x)
    assert np.abs(again - real).max() <= 1e-5 * np.abs(real).max()
    held_out = {"x": images(32, seed=5)}
    before, after = (output_sqnr(graph, quantise(graph, x, QuantOptions(equalise=on, bias_correction=False)), held_out) for on in (False, True))
    assert after > before + 12, (before, after)


def test_equalisation_keeps_its_hands_off_channels_that_something_else_reads() -> None:
    b = Builder("fork")
    x = b.input("x", (1, 4), "float32")
    w = b.const("w", np.diag([1e-3, 1, 1, 1e3]).astype(np.float32))
    y = b.op("dense", x, w, "", activation="relu")
    z = b.op("dense", y, b.const("v", np.diag([1e3, 1, 1, 1e-3]).astype(np.float32)), "", activation="none")
    assert len(pairs(b.graph([z]))) == 1
    assert pairs(b.graph([z, y])) == [], "the channels are an output"
    assert pairs(b.graph([b.op("add", z, y, activation="none")])) == [], "an addition reads them"


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["one", "two", "three"])
def test_report_names_the_layer_that_was_made_bad(bad: str) -> None:
    graph, x = chain(loud=bad), images(64)
    made = quantise(graph, x, PLAIN)
    found = report(graph, made, x)
    rows = {row.node: row for row in found.rows}
    # what follows the layer and keeps its range (here the mean behind the third) carries the same noise
    assert bad in found.worst() and rows[bad].share > 0.4, str(found)
    assert min(rows.values(), key=lambda r: r.alone_db).node in (bad, "mean")
    good = report(chain(), quantise(chain(), x, PLAIN), x)
    assert next(r for r in good.rows if r.node == bad).share < 0.4
    assert found.output_db < good.output_db - 10


def test_simulated_figures_are_those_of_really_mixed_graphs() -> None:
    """The last layer really alone in int8, and really alone in float: its `alone_db` and `gain_db`."""
    graph, x = chain(), images(32)
    options = QuantOptions(bias_correction=False, equalise=False, float_io=True)
    made = quantise(graph, x, options)
    last = next(row for row in report(graph, made, x).rows if row.node == "last")
    alone = quantise(graph, x, replace(options, keep_float=("one", "two", "three", "mean")))
    assert output_sqnr(graph, alone, {"x": x}) == pytest.approx(last.alone_db, abs=2.0)
    without = quantise(graph, x, replace(options, keep_float=("last",)))
    gained = output_sqnr(graph, without, {"x": x}) - output_sqnr(graph, made, {"x": x})
    assert gained == pytest.approx(last.gain_db, abs=1.5) and gained > 2


def test_report_as_text_and_as_json() -> None:
    graph, x = chain(loud="two"), images(64)
    found = report(graph, quantise(graph, x), x)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["model"] == "chain" and data["samples"] == 32 and data["worst"] == list(found.worst())
    assert [row["node"] for row in data["rows"]] == ["one", "two", "three", "mean", "last"]
    assert sum(row["share"] for row in data["rows"]) == pytest.approx(1)
    text = str(found)
    assert text.splitlines()[0] == f"chain: outputs at {found.output_db:.1f} dB on 32 samples"
    assert all(f"\n{row.node} " in text for row in found.rows) and "of the noise comes from" in text


def test_report_refuses_graphs_that_do_not_belong_together() -> None:
    x = images(8)
    other = quantise(equalise(chain(), observe(chain(), read(x, chain()))), x)
    b = Builder("alone")
    graph = b.graph([b.op("relu", b.input("x", (1, 8, 8, 4), "float32"))])
    with pytest.raises(UsageError, match="of the float model is not in the quantised one; give the float graph that quantise was given"):
        report(graph, other, x)


def test_plan_carries_the_report_and_real_samples_to_verify_with() -> None:
    graph, x = chain(loud="two"), images(64)
    made = sdk.plan(BOARD, graph, calibration=iter(x), quant={"equalise": False, "range": "mse"}, quant_report=True)
    assert isinstance(made.quant_report, QuantReport) and "two" in made.quant_report.worst()
    assert json.loads(json.dumps(made.to_dict()))["quant_report"]["worst"] == list(made.quant_report.worst())
    assert made.decisions[0] == "Quantised on 64 calibration samples: ranges by mse, biases corrected."
    tensor = made.graph["x"]
    np.testing.assert_array_equal(made.vectors[0][0], quantise_array(x[:1], tensor.scale, tensor.zero_point, "int8"))
    assert len(made.vectors) == 3
    assert sdk.plan(BOARD, graph, calibration=x).quant_report is None


def test_plan_says_what_is_wrong_with_quant_options() -> None:
    with pytest.raises(UsageError, match="quant names 'ranges', which is no option; choose from range, percentile"):
        sdk.plan(BOARD, chain(), calibration=images(4), quant={"ranges": "mse"})
    with pytest.raises(UsageError, match="nothing was quantised here; give a float model and calibration data"):
        sdk.plan(BOARD, chain(), quant_report=True)


# -- mixed precision ---------------------------------------------------------------------------------------------------

MIXED = {
    "int16": {"int16": ("two", "three")},
    "float": {"keep_float": ("two", "three")},
    "both": {"int16": ("two", "three", "mean"), "keep_float": ("last",)},
    "16 bits throughout": {"int16": ("one", "two", "three", "mean", "last")},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] if n in ("float", "16 bits throughout") else []) for n in MIXED])
def test_layers_of_higher_precision_run_on_the_board_and_lessen_the_noise(name: str) -> None:
    graph, x = chain(loud="two"), images(64)
    options = {"equalise": False, **MIXED[name]}
    held_out = {"x": images(32, seed=5)}
    low = output_sqnr(graph, quantise(graph, x, QuantOptions(equalise=False)), held_out)
    high = output_sqnr(graph, quantise(graph, x, QuantOptions(**options)), held_out)
    assert high > low + 8, (low, high)
    made = sdk.plan(BOARD, graph, calibration=x, quant=options)
    kinds = {step.node: step.dtype for step in made.steps}
    for precision, names in (("int16", "int16"), ("float32", "keep_float")):
        assert all(kinds[node] == precision for node in MIXED[name].get(names, ()))
    with sdk.compile(made).flash("emulator") as session:
        proof = session.verify()
        assert proof.ok and proof.bytes_compared > 0
        if "keep_float" not in MIXED[name]:
            assert proof.bytes_equal == proof.bytes_compared
        np.testing.assert_allclose(session.run(held_out["x"][:1]), outputs(made.graph, held_out["x"][:1]), rtol=1e-4, atol=1e-4)


def test_auto_mixed_finds_the_layers_and_stops_when_the_aim_is_met() -> None:
    graph, x = chain(loud="two"), images(64)
    options = QuantOptions(equalise=False)
    low = output_sqnr(graph, quantise(graph, x, options), {"x": x[:32]})
    mixed = auto_mixed(graph, x, target_db=low + 8, options=options)
    assert mixed.reached and "two" in {*mixed.options.int16, *mixed.options.keep_float}
    costs = [s.output_db for s in mixed.steps]
    assert costs == sorted(costs) and costs[-2] < low + 8 <= costs[-1]
    again = quantise(graph, x, mixed.options)
    np.testing.assert_array_equal(outputs(again, x), outputs(mixed.graph, x))
    hopeless = auto_mixed(graph, x, target_db=140.0, options=options, max_layers=1)
    assert not hopeless.reached and "not reached" in str(hopeless)


def test_auto_mixed_wants_one_aim() -> None:
    graph, x = chain(), images(4)
    for wrong in ({}, {"target_db": 30.0, "max_drop": 0.1}):
        with pytest.raises(UsageError, match="auto_mixed needs one aim; give target_db, or max_drop with evaluate"):
            auto_mixed(graph, x, **wrong)
    with pytest.raises(UsageError, match="measures the model; give evaluate"):
        auto_mixed(graph, x, max_drop=0.01)
    with pytest.raises(UsageError, match="give 'int16', 'float32' or both"):
        auto_mixed(graph, x, target_db=30.0, kinds=("int4",))
