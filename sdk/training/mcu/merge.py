"""What a board has learnt, brought home: values -> float weights -> a model quantised anew by the ordinary path, kept only if it is no worse.

    values = session.pull()
    again = requantised(plan, values, calibration, held_back=(x, y))
    if again.no_worse:
        sdk.compile(again.plan).save("next/")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sdk.errors import DataError, UsageError
from sdk.golden import check_input
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.mcu_training import TrainedLayer, TrainingUse
from sdk.planner.plan import Plan, make_plan
from sdk.training.mcu.layers import real
from sdk.training.mcu.prepare import ready
from sdk.training.mcu.split import STORAGE


@dataclass(frozen=True)
class Requantised:
    """A model with what was learnt in it. accuracy_before, accuracy_after: on the held-back samples, of the int8 model that the board had
    and of the new one; both None where no samples were given. `plan` compiles like any other."""

    graph: Graph = field(repr=False)
    plan: Plan = field(repr=False)
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    @property
    def no_worse(self) -> bool:
        """True when the new model may replace the old one: judged, and not below it."""
        return self.accuracy_before is not None and self.accuracy_after is not None and self.accuracy_after >= self.accuracy_before


def merge(plan: Plan, values: Mapping[str, np.ndarray]) -> Graph:
    """The float model with the trained weights: W + P U^T of an adapter, else the values as they are, and biases.

    plan: of training, as it was made (not read from a file: it must know its model). values: as `session.pull()` gives them.
    What was learnt is added to the float weights that the board's integers were rounded from, where they are known.
    Raises UsageError for a plan without its model, DataError for values that are not its variables.
    """
    use = _use(plan)
    assert use.graph is not None
    base = use.real if use.real is not None else dequantised(use.graph)
    nodes = {node.name: node for node in base.nodes}
    tensors = dict(base.tensors)
    for layer in use.trained:
        for part, moved in _moves(use, layer, values).items():
            name = nodes[layer.node].inputs[1 if part == "weight" else 2]
            old = tensors[name]
            assert old.data is not None
            tensors[name] = replace(old, data=(old.data + moved.reshape(old.shape)).astype(np.float32))
    return base.with_nodes(base.nodes, tensors)


def _use(plan: Plan) -> TrainingUse:
    if plan.training is None or plan.training.graph is None:
        raise UsageError(f"the plan of {plan.name} does not hold the model it trains; make it anew with sdk.plan(..., training=...)")
    return plan.training


def _moves(use: TrainingUse, layer: TrainedLayer, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How far the layer's weight and bias have moved from where they began, float64 in the graph's layout."""
    found = {}
    for variable in (v for v in use.variables if v.layer == layer.name and not v.momentum):
        value = _checked(variable.name, variable.shape, values)
        moved = value if variable.initial is None else value - variable.initial
        if variable.part == "adapter":
            found["weight"] = moved @ use.bases[layer.name].astype(np.float64).T
        elif variable.part == "weight":
            found["weight"] = moved * _scale(use, layer) if variable.dtype == "int8" else moved
        elif variable.part == "bias":
            found["bias"] = moved
    return found


def _checked(name: str, shape: tuple[int, ...], values: Mapping[str, np.ndarray]) -> np.ndarray:
    if name not in values:
        raise DataError(f"the values lack {name}; give what session.pull() gave, all of it")
    value = np.asarray(values[name], np.float64)
    if value.shape != shape or not np.isfinite(value).all():
        raise DataError(f"{name} has shape {list(value.shape)} or values that are not finite, and must be finite and {list(shape)}; pull it again")
    return value


def _scale(use: TrainingUse, layer: TrainedLayer) -> np.ndarray:
    """Scales of an int8 weight, shaped to multiply it."""
    assert use.graph is not None
    node = next(n for n in use.graph.nodes if n.name == layer.node)
    weight = use.graph[node.inputs[1]]
    assert weight.quant is not None
    shape = [1] * len(weight.shape)
    if weight.quant.axis is not None:
        shape[weight.quant.axis] = -1
    return np.asarray(weight.quant.scale, np.float64).reshape(shape)


def dequantised(graph: Graph) -> Graph:
    """The float model that an int8 one stands for: constants in real numbers, conversions left out, no rounding in between."""
    same: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(same.get(name, name) for name in node.inputs)
        if node.op in STORAGE:
            same[node.outputs[0]] = inputs[0]
        else:
            nodes.append(replace(node, inputs=inputs))
    tensors = {name: _real_tensor(t, graph) for name, t in graph.tensors.items()}
    outputs = tuple(same.get(name, name) for name in graph.outputs)
    return graph.with_nodes(nodes, tensors, outputs=outputs)


def _real_tensor(tensor: Tensor, graph: Graph) -> Tensor:
    if tensor.quant is None:
        return tensor
    if tensor.is_const:
        return replace(tensor, dtype="float32", quant=None, data=real(tensor))
    return replace(tensor, dtype="float32", quant=None)


def requantised(plan: Plan, values: Mapping[str, np.ndarray], calibration: Any, held_back: tuple[Any, Any] | None = None, quant: Any = None) -> Requantised:
    """`merge`, quantised by the ordinary path and planned for the same device; judged by `held_back` (inputs [n, ...], labels [n]).

    calibration: real inputs, as for `sdk.plan`. Raises what `merge` and quantising raise, DataError for held-back samples that do not fit.
    """
    use = _use(plan)
    assert use.graph is not None
    made = ready(merge(plan, values), calibration, quant, "int8")
    again = make_plan(plan.device, made.graph, name=plan.name, compiler=plan.compiler, decisions=made.decisions)
    if held_back is None:
        return Requantised(made.graph, again)
    before, after = (accuracy(graph, *held_back) for graph in (use.graph, made.graph))
    return Requantised(made.graph, again, before, after)


def accuracy(graph: Graph, inputs: Sequence[Any], labels: Sequence[int]) -> float:
    """Share of samples whose highest output is their label's. Raises DataError without samples, or with another number of labels."""
    if not len(inputs) or len(inputs) != len(labels):
        raise DataError(f"{len(inputs)} held-back inputs came with {len(labels)} labels; give one label for each input, and at least one")
    tensor = graph[graph.inputs[0]]
    right = 0
    for x, label in zip(inputs, labels, strict=True):
        x = np.asarray(x)
        (out,) = run(graph, [check_input(tensor, x[None] if x.ndim < len(tensor.shape) else x)]).values()
        right += int(np.argmax(out)) == int(label)
    return right / len(labels)


__all__ = ["Requantised", "accuracy", "dequantised", "merge", "requantised"]
