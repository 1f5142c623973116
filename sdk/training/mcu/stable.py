"""Which samples prove a training step: those whose step stays the same when rounding goes another way.

Sums are taken in another order on a device, so a value may come out some 1e-7 of its terms higher or lower. Where it lies that near to a
relu's threshold the gradient passes on one side and not on the other, and both are right. int8 values in front of a layer make
such ties common: its sums are whole multiples of one number, and zero is one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from sdk.golden import random_inputs
from sdk.graph.interpreter import compute, initial_variables
from sdk.graph.ir import Graph, Node
from sdk.graph.ops import written
from sdk.graph.ops.base import float_activation
from sdk.graph.ops.training import OPS
from sdk.planner.mcu_training import TrainingUse

#: How far a sum is moved, relative to the sum of its terms' sizes: several times what rounding does to a thousand products in any order.
#: (The bound is in Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2; in practice it is far from reached.) A channel
#: that was pruned to zero has no terms, is zero everywhere, and is not moved.
NUDGE = 3e-7
#: A label with a larger loss is one that the model takes for impossible: a step far outside of where it would ever learn.
LARGEST_LOSS = 10.0
#: A smaller loss is one of a label that is known already: nothing is learnt, and the logarithm of nearly 1 has an error of 1e-7 in float32.
SMALLEST_LOSS = 0.05
#: Some sums up and the others down, then the other way round: every tie is decided both ways. (All up at once would add up to far
#: more than rounding does.)
_WAYS = (1.0, -1.0)
_LAYERS = ("train_conv2d", "train_depthwise", "train_dense", "add")
_POINT = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
_RANDOM = 12

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Taken:
    """What a step left: its loss, the logits [1, classes] in front of it, every variable afterwards."""

    loss: float
    logits: np.ndarray
    variables: Values = field(repr=False)


@dataclass(frozen=True)
class Stepper:
    """The steps of one graph, as they are and nudged. What lies in front of the trained part is computed once a sample."""

    graph: Graph
    use: TrainingUse

    @cached_property
    def _cut(self) -> int:
        """Index of the first node of the trained part."""
        ops = {op.name for op in OPS}
        variable = {name for name, tensor in self.graph.tensors.items() if tensor.variable}
        return next(i for i, node in enumerate(self.graph.nodes) if node.op in ops or variable.intersection(node.inputs))

    def start(self) -> Values:
        """Every variable as the firmware has it."""
        return initial_variables(self.graph)

    def entering(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The sample, and what the part in front makes of it."""
        values = {next(n for n in self.graph.inputs if n != self.use.label): x}
        for node in self.graph.nodes[: self._cut]:
            values.update(zip(written(node), compute(self.graph, node, values), strict=True))
        return values

    def step(self, entering: Values, label: int, variables: Values, way: float = 0.0) -> Taken:
        """One step from `variables`; `way` of `_WAYS`, 0: as the interpreter takes it."""
        values = {**variables, **entering, self.use.label: np.array([label], np.int32)}
        rng = np.random.default_rng(0)
        for node in self.graph.nodes[self._cut :]:
            results = self._nudged(node, values, way, rng) if way else compute(self.graph, node, values)
            values.update(zip(written(node), results, strict=True))
        return Taken(float(values[self.use.loss][0]), values[self.use.logits], {name: values[name] for name in variables})

    def nudged(self, entering: Values, label: int, states: Sequence[Values]) -> Iterator[Taken]:
        """The same step, nudged in each way; each goes on from the state that it left."""
        return (self.step(entering, label, state, way) for way, state in zip(_WAYS, states, strict=True))

    def starts(self) -> tuple[Values, ...]:
        """Where the nudged steps begin."""
        return (self.start(),) * len(_WAYS)

    def _nudged(self, node: Node, values: Values, way: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """The node's results, its sums moved before the activation."""
        if node.op == "train_head":
            return compute(self.graph, node, self._moved_bias(node, values, way, rng))
        if node.op not in _LAYERS:
            return compute(self.graph, node, values)
        plain = replace(node, attrs={**node.attrs, "activation": "none"})
        sums, sizes = compute(self.graph, plain, values)[0], self._sizes(plain, values)
        return (float_activation(_moved(sums, sizes, way, rng), str(node.attrs.get("activation", "none"))),)

    def _moved_bias(self, node: Node, values: Values, way: float, rng: np.random.Generator) -> Values:
        """A fused head has no sums to be had: its bias is moved, or what it reads where it has none."""
        if len(node.inputs) < 3 or not node.inputs[2]:
            x = values[node.inputs[0]]
            return {**values, node.inputs[0]: _moved(x, np.abs(x), way, rng)}
        plain = replace(node, op="train_conv2d", attrs={**_POINT, "activation": "none"}, outputs=node.outputs[:1])
        sizes = self._sizes(plain, values)  # [1, H, W, O]
        return {**values, node.inputs[2]: _moved(self._value(node.inputs[2], values), sizes.max(axis=(0, 1, 2)), way, rng)}

    def _sizes(self, node: Node, values: Values) -> np.ndarray:
        """Of each of the node's sums, the sum of its terms' absolute values."""
        sizes = {name: np.abs(np.maximum(value, -127) if value.dtype == np.int8 else value) for name, value in self._read(node, values)}
        return compute(self.graph, node, sizes)[0]

    def _read(self, node: Node, values: Values) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, self._value(name, values)) for name in node.inputs if name)

    def _value(self, name: str, values: Values) -> np.ndarray:
        value = values[name] if name in values else self.graph[name].data
        assert value is not None  # the graph checked that every input has a value
        return value


def _moved(value: np.ndarray, sizes: np.ndarray, way: float, rng: np.random.Generator) -> np.ndarray:
    """value, each entry moved up or down by `NUDGE` of its own of `sizes`."""
    return np.asarray(value + way * NUDGE * rng.choice((-1.0, 1.0), value.shape) * sizes, np.float32)


def candidates(graph: Graph, use: TrainingUse, vectors: Sequence[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, int | None]]:
    """(sample, label) in the order in which they are tried, label None: the answer that the model likes second best.

    First the plan's own; then those samples and their halfway points, which look like samples; then noise."""
    yield from ((x, int(label[0])) for x, label in vectors)
    samples = [vector[0] for vector in vectors]
    yield from ((x, None) for x in samples)
    yield from ((_halfway(a, b), None) for n, a in enumerate(samples) for b in samples[n + 1 :])
    yield from ((row[1 - graph.inputs.index(use.label)], None) for row in random_inputs(graph, _RANDOM))


def _halfway(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    middle = (a.astype(np.float64) + b) / 2
    return (np.rint(middle) if a.dtype.kind in "iu" else middle).astype(a.dtype)


def second_best(logits: np.ndarray) -> int:
    """Of logits [1, classes] the class behind the first; the first where there is no other."""
    return int(np.argsort(-logits[0], kind="stable")[:2][-1])
