"""Layers in stripes of rows: every byte as before, less memory, and only where that helps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import UsageError
from sdk.golden import check_input
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from sdk.passes.quantise import QuantOptions, quantise
from sdk.passes.stripes import chains, extra_macs, striped
from sdk.planner.latency import node_macs
from sdk.planner.plan import make_plan
from sdk.training.mcu.thin import find_cuts, peak_bytes, thinned
from targets.device import load_device
from tests.training_nets import Maker, samples


def wide_net(size: int = 24, stride: int = 2, channels: int = 4, expansion: int = 8) -> Graph:
    """An inverted bottleneck whose middle is by far the largest tensor."""
    m = Maker("wide", (size, size, 3))
    x = m.conv(m.x, channels, 3)
    x = m.conv(m.depthwise(m.conv(x, channels * expansion), stride), channels, activation="none")
    graph = m.classify(m.conv(x, 8))
    return quantise(graph, samples(graph, 16), QuantOptions())


def macs(graph: Graph) -> int:
    return sum(node_macs(graph, node) for node in graph.nodes)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_stripes_change_no_byte(data: st.DataObject) -> None:
    graph = wide_net(data.draw(st.integers(5, 14)), data.draw(st.sampled_from([1, 2])))
    run_ = data.draw(st.sampled_from(chains(graph)))
    first = data.draw(st.integers(0, len(run_) - 2))
    names = run_[first : data.draw(st.integers(first + 2, len(run_)))]
    height = next(graph[n.outputs[0]].shape[1] for n in graph.nodes if n.name == names[-1])
    count = data.draw(st.integers(2, height))
    thin = striped(graph, names, count)
    verify(thin)
    x = check_input(graph[graph.inputs[0]], samples(graph, 1))
    before, after = (run(g, [x])[g.outputs[0]] for g in (graph, thin))
    assert (before == after).all()
    assert macs(thin) - macs(graph) == extra_macs(graph, names, count) >= 0


def test_the_largest_layers_run_in_stripes_and_the_arena_shrinks() -> None:
    graph, board = wide_net(), load_device("stm32f746")
    cuts = find_cuts(graph, board)
    thin, taken = thinned(graph, cuts, {node.name for node in graph.nodes})
    assert cuts and taken == cuts and "stripes of rows" in str(cuts[0])
    before, after = (sum(make_plan(board, g).arena_bytes) for g in (graph, thin))
    assert after < 0.5 * before
    assert peak_bytes(thin, board)[0] <= peak_bytes(graph, board)[0] - cuts[0].saved_bytes


def test_layers_that_learn_are_left_whole() -> None:
    graph, board = wide_net(), load_device("stm32f746")
    cuts = find_cuts(graph, board)
    frozen = {node.name for node in graph.nodes} - {cuts[0].names[-1]}
    assert thinned(graph, cuts[:1], frozen) == (graph, ())


def test_nothing_is_cut_where_nothing_is_gained() -> None:
    m = Maker("narrow", (6, 6, 3))
    graph = m.classify(m.conv(m.conv(m.x, 4), 4))
    assert find_cuts(quantise(graph, samples(graph, 8), QuantOptions()), load_device("stm32f746")) == ()


def test_what_cannot_be_cut_is_told() -> None:
    graph = wide_net()
    names = chains(graph)[0]
    with pytest.raises(UsageError, match=r"are no chain of layers; choose from"):
        striped(graph, (names[0], names[2]), 2)
    with pytest.raises(UsageError, match=r"30 stripes of 24 rows are not possible; give a number from 2 to 24"):
        striped(graph, names[:2], 30)
