"""Made-up graphs and kernels for the planner's tests: they have buffers and lifetimes, and compute nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st

from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.problem import NoAsks


def make_graph(sizes: dict[str, int], nodes: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]], inputs, outputs) -> Graph:
    """A graph of int8 vectors: `sizes` in bytes, nodes as (name, reads, writes); a name that starts with "reshape" is one."""
    tensors = {name: Tensor(name, (size,), "int8") for name, size in sizes.items()}
    made = tuple(
        Node(name, "reshape" if name.startswith("reshape") else "opaque", reads, writes, {"kind": name}) for name, reads, writes in nodes
    )
    return Graph("made-up", tuple(inputs), tuple(outputs), tensors, made)


def chain(*sizes: int) -> Graph:
    """t0 -> t1 -> ... with the given sizes."""
    names = {f"t{i}": size for i, size in enumerate(sizes)}
    nodes = [(f"n{i}", (f"t{i}",), (f"t{i + 1}",)) for i in range(len(sizes) - 1)]
    return make_graph(names, nodes, ("t0",), (f"t{len(sizes) - 1}",))


def random_model(seed: int, nodes: int, *, width: int = 3) -> tuple[Graph, dict[str, NoAsks | None]]:
    """A random branching graph with scratch, sharing at random distances and reshapes; the same for the same seed."""
    dice = random.Random(seed)
    sizes = {"x0": dice.randrange(1, 400), "x1": dice.randrange(1, 400)}
    rows: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    calls: dict[str, NoAsks | None] = {}
    for n in range(nodes):
        known = list(sizes)
        reads: tuple[str, ...]
        recent = known[-width:]
        if dice.random() < 0.15:
            source = dice.choice(recent)
            name, reads, size = f"reshape{n}", (source,), sizes[source]
            calls[name] = None
        else:
            name = f"n{n}"
            reads = tuple(dice.choice(recent if dice.random() < 0.8 else known) for _ in range(dice.choice((1, 1, 1, 2, 3))))
            size = dice.choice((dice.randrange(1, 400), sizes[reads[0]]))
            overlap = {i: dice.choice((0, 0, dice.randrange(-20, 200))) for i in range(len(reads)) if dice.random() < 0.6}
            calls[name] = NoAsks(dice.choice((0, 0, dice.randrange(1, 90))), overlap)
        sizes[f"y{n}"] = size
        rows.append((name, reads, (f"y{n}",)))
    read = {r for _, reads, _ in rows for r in reads}
    outputs = [name for name in sizes if name.startswith("y") and name not in read] or [f"y{nodes - 1}"]
    return make_graph(sizes, rows, ("x0", "x1"), outputs), calls


models = st.builds(random_model, st.integers(0, 10**6), st.integers(1, 14), width=st.integers(1, 5))
