"""Golden vectors: what random inputs are, where nobody gives real ones."""

from __future__ import annotations

import numpy as np

from sdk.golden import random_inputs
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph, Quant


def embedding(entries: int, dtype: str = "int64") -> Graph:
    """Tokens [1, 6], reshaped, look up a table of so many entries."""
    b = Builder("tokens")
    x = b.input("x", (1, 6), dtype)
    table = b.const("table", np.arange(entries * 2, dtype=np.float32).reshape(entries, 2))
    return b.graph([b.op("gather", table, b.op("reshape", x, shape=(6,)), axis=0)])


def test_tokens_are_indices_that_the_table_has() -> None:
    for entries in (1, 3, 70):
        drawn = np.concatenate([row[0] for row in random_inputs(embedding(entries), 60)])
        assert drawn.dtype == np.int64 and set(drawn.reshape(-1)) == set(range(entries))


def test_other_integers_use_their_whole_range() -> None:
    b = Builder("plain")
    graph = b.graph([b.op("relu", b.input("x", (64,), "int8", Quant((0.1,), (3,))))])
    (row,) = random_inputs(graph, 1)
    assert row[0].min() < -100 and row[0].max() > 100


def test_without_the_graph_only_the_first_two_entries_are_safe() -> None:
    tensors = embedding(9).tensors
    (row,) = random_inputs(Graph("inputs", ("x",), (), {"x": tensors["x"]}, ()), 1)
    assert set(row[0].reshape(-1)) <= {0, 1}
