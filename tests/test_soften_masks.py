"""Attention masks in int8: the scores keep their 8 bits, and masked places stay unseen."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.graph.builder import Builder
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.pieces import MASKED
from sdk.graph.quantmath import dequantise_array, quantise_array
from sdk.passes.calibrate import observe
from sdk.passes.quant_report import report
from sdk.passes.quantise import QuantOptions, quantise
from sdk.passes.soften_masks import masks, soften_masks

LENGTH = 9
CAUSAL = np.triu(np.full((LENGTH, LENGTH), MASKED, np.float32), 1)


def attention(mask: np.ndarray, swapped: bool = False, reshaped: bool = False) -> Graph:
    """Scores [1, 2, 9, 9], mask, softmax."""
    b = Builder("attention")
    x = b.input("x", (1, 2, LENGTH, LENGTH), "float32")
    names = (b.const("mask", mask), x) if swapped else (x, b.const("mask", mask))
    y = b.op("add", *names, activation="none")
    y = b.op("reshape", y, shape=(2, LENGTH, LENGTH)) if reshaped else y
    return b.graph([b.op("softmax", y, axis=-1 if reshaped else 3, beta=1.0)])


def scores(count: int = 32, spread: float = 2.0) -> np.ndarray:
    """Normal scores [count, 2, 9, 9]."""
    return (np.random.default_rng(0).standard_normal((count, 2, LENGTH, LENGTH)) * spread).astype(np.float32)


def in_int8(graph: Graph, x: np.ndarray, options: QuantOptions | None = None) -> np.ndarray:
    """What the int8 graph answers, as real numbers."""
    made = quantise(graph, x, options)
    tensor, out = made[made.inputs[0]], made[made.outputs[0]]
    assert out.quant is not None
    return dequantise_array(run(made, [quantise_array(x, tensor.scale, tensor.zero_point, "int8")])[made.outputs[0]], out.quant)


@pytest.mark.parametrize("options", [QuantOptions(), QuantOptions(range="mse"), QuantOptions(range="percentile")], ids=lambda o: o.range)
@pytest.mark.parametrize("form", [{}, {"swapped": True}, {"reshaped": True}], ids=str)
@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
def test_masked_attention_in_int8_is_that_of_float(form: dict[str, bool], options: QuantOptions, spread: float) -> None:
    graph, x = attention(CAUSAL, **form), scores(spread=spread)
    wanted = run(graph, [x])[graph.outputs[0]]
    found = in_int8(graph, x, options).reshape(wanted.shape)
    noise = np.square(found - wanted).sum() / np.square(wanted).sum()
    assert -10 * np.log10(noise) > 25
    hidden = np.broadcast_to(CAUSAL < 0, (2, LENGTH, LENGTH))
    assert found.reshape(-1, 2, LENGTH, LENGTH)[:, hidden].max() <= 1 / 256  # one step of the softmax, over thousands of places


def test_what_a_mask_adds_where_it_hides_nothing_is_kept() -> None:
    """Distances between places, as some nets add them with the mask."""
    mask = np.where(CAUSAL < 0, CAUSAL, -0.25 * np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))).astype(np.float32)
    graph, x = attention(mask), scores()
    made = soften_masks(graph, observe_all(graph, x))
    (soft,) = (t.data for t in made.constants())
    assert soft is not None
    assert np.array_equal(soft[CAUSAL == 0], mask[CAUSAL == 0])
    assert soft.min() > -60 and len(set(soft[CAUSAL < 0].tolist())) == 1
    lowest = x.min() + soft[CAUSAL == 0].min()
    assert x.max() + soft.max(where=CAUSAL < 0, initial=-np.inf) <= lowest - np.log(256 * LENGTH) + 1e-4
    wanted = run(graph, [x])[graph.outputs[0]]
    np.testing.assert_allclose(run(made, [x])[made.outputs[0]], wanted, atol=1 / 256)


def observe_all(graph: Graph, x: np.ndarray) -> dict:
    """What calibration sees of every tensor."""
    from sdk.data import read

    return observe(graph, read(x, graph, 512), histograms=False)


def other_reader(b: Builder, y: str) -> list[str]:
    """The sum goes into a softmax and into something that shows its values."""
    return [b.op("softmax", y, axis=3, beta=1.0), b.op("tanh", y)]


def returned(b: Builder, y: str) -> list[str]:
    """The sum itself is an output."""
    return [b.op("softmax", y, axis=3, beta=1.0), y]


def another_axis(b: Builder, y: str) -> list[str]:
    """A softmax in which the mask hides something else."""
    return [b.op("softmax", y, axis=2, beta=1.0)]


@pytest.mark.parametrize("ends", [other_reader, returned, another_axis])
def test_a_mask_whose_values_show_is_left_alone(ends) -> None:
    b = Builder("m")
    y = b.op("add", b.input("x", (1, 2, LENGTH, LENGTH), "float32"), b.const("mask", CAUSAL), activation="none")
    graph = b.graph(ends(b, y))
    assert masks(graph) == []
    assert soften_masks(graph, {}) is graph


def test_layers_that_share_a_mask_get_each_their_own() -> None:
    b = Builder("m")
    x, mask = b.input("x", (1, 1, LENGTH, LENGTH), "float32"), b.const("mask", CAUSAL)
    y = b.op("softmax", b.op("add", x, mask, activation="none"), axis=3, beta=1.0)
    graph = b.graph([b.op("softmax", b.op("add", y, mask, activation="none"), axis=3, beta=1.0)])
    made = soften_masks(graph, observe_all(graph, scores()[:, :1]))
    low = [t.data.min() for t in made.constants() if t.data is not None]
    assert len(low) == 2 and low[0] < low[1] < -7  # scores spread further than shares of attention
    assert [n.name for n in made.nodes] == [n.name for n in graph.nodes]


def test_the_report_compares_with_the_same_mask() -> None:
    graph, x = attention(CAUSAL), scores()
    rows = {r.op: r for r in report(graph, quantise(graph, x), x).rows}
    assert rows["add"].sqnr_db > 30 and rows["softmax"].sqnr_db > 25
