"""One training step in torch, float64, with autograd: what the C of a training graph is judged by.

It shares nothing with the graph of the step: the trained part is read off the inference graph, node by node, and torch differentiates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdk.graph.ir import Node
from sdk.planner.training.spec import Training
from sdk.training.mcu.bases import real_values
from sdk.training.mcu.layers import WEIGHTED
from sdk.training.mcu.split import STORAGE, Split, refuse
from sdk.training.mcu.treat import Treatment, Variable, hyper_values


class Reference:
    """The trained part of a model in float64, and its variables. `values` holds them by name; `step` updates them."""

    def __init__(self, split: Split, treatments: Sequence[Treatment], variables: Sequence[Variable], training: Training) -> None:
        import torch

        self.split = split
        self.treatments = {t.layer.node.name: t for t in treatments}
        self.learning = {f"{t.layer.name}.weight": t for t in treatments if t.method == "fixed" or t.int8}
        self.values: dict[str, Any] = {
            v.name: torch.from_numpy(np.array(v.initial, np.float64)) for v in variables if v.learns
        }
        self.momenta = {name: torch.zeros_like(value) for name, value in self.values.items()}
        self.learning_rate, self.momentum = (float(v) for v in hyper_values(training)[:2])

    def step(self, boundary: Mapping[str, np.ndarray], label: int) -> float:
        """One step of gradient descent on one sample; the loss before it. `boundary`: what the prefix makes, as it is stored."""
        import torch

        leaves = {name: value.clone().requires_grad_() for name, value in self.values.items()}
        loss = torch.nn.functional.cross_entropy(self.forward(boundary, leaves), torch.tensor([label]))
        grads = torch.autograd.grad(loss, list(leaves.values()))
        for (name, value), grad in zip(self.values.items(), grads, strict=True):
            self.momenta[name] = self.momentum * self.momenta[name] + self._seen(name, grad)
            self.values[name] = value - self.learning_rate * self.momenta[name]
        return float(loss.detach())

    def _seen(self, name: str, grad: Any) -> Any:
        """The gradient as a step sees it: of a layer whose input is stored in a subspace, what lies in that subspace; of integer weights,
        divided by their squared scales, so that they move as the real weights would (quantisation-aware scaling)."""
        import torch

        t = self.learning.get(name)
        if t is None:
            return grad
        if t.method == "fixed" and t.basis is not None:
            u = torch.from_numpy(t.basis.real.astype(np.float64))
            return grad @ u @ u.T
        return grad / torch.from_numpy(_scale(t)) ** 2 if t.int8 else grad

    def forward(self, boundary: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> Any:
        """Logits [1, classes]."""
        import torch

        graph = self.split.graph
        values = {name: torch.from_numpy(np.ascontiguousarray(real_values(graph, name, boundary[name]))) for name in self.split.boundary}
        for node in self.split.live:
            values[node.outputs[0]] = self._node(node, values, params)
        return values[self.split.logits]

    def arrays(self) -> dict[str, np.ndarray]:
        """The variables now, float64."""
        return {name: value.numpy().copy() for name, value in self.values.items()}

    def _node(self, node: Node, values: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
        x = values[node.inputs[0]]
        if node.op in STORAGE:
            return x
        if node.op in WEIGHTED:
            y = _weighted(node, x, *self._parameters(node, params))
        elif node.op == "add":
            y = x + values[node.inputs[1]]
        elif node.op == "reshape":
            y = x.reshape(self.split.graph[node.outputs[0]].shape)
        elif node.op in ("relu", "relu6"):
            y = activated(x, node.op)
        else:
            y = _pooled(node, x)
        return activated(y, node.attrs.get("activation", "none"))

    def _parameters(self, node: Node, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """(weight, bias) of a layer in float64 as functions of what learns."""
        import torch

        t = self.treatments[node.name]
        w = torch.from_numpy(_exact_weight(t))
        name = t.layer.name
        if t.adapter is not None:
            w = w + params[f"{name}.adapter"] @ torch.from_numpy(t.adapter.real.astype(np.float64)).T
        elif f"{name}.weight" in params:
            w = params[f"{name}.weight"] * (torch.from_numpy(_scale(t)) if t.int8 else 1.0)
        return w, params.get(f"{name}.bias", torch.from_numpy(t.layer.real_bias().astype(np.float64)))


def _exact_weight(t: Treatment) -> np.ndarray:
    """The frozen weight in double precision, not rounded to float32."""
    tensor = t.layer.weight
    values = np.asarray(tensor.data, np.float64)
    return values if tensor.quant is None else values * _scale(t)


def _scale(t: Treatment) -> np.ndarray:
    """The weight's scales, shaped to multiply it."""
    tensor = t.layer.weight
    assert tensor.quant is not None
    shape = [1] * len(tensor.shape)
    if tensor.quant.axis is not None:
        shape[tensor.quant.axis] = -1
    return np.asarray(tensor.quant.scale, np.float64).reshape(shape)


def _weighted(node: Node, x: Any, w: Any, b: Any) -> Any:
    from torch.nn import functional

    if node.op == "dense":
        return functional.linear(x, w, b)
    (top, bottom), (left, right) = node.attrs["padding"]
    image = functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    depthwise = node.op == "depthwise_conv2d"
    kernel = w.permute(3, 0, 1, 2) if depthwise else w.permute(0, 3, 1, 2)
    groups = x.shape[3] if depthwise else 1
    y = functional.conv2d(image, kernel, b, node.attrs["stride"], 0, node.attrs.get("dilation", (1, 1)), groups)
    return y.permute(0, 2, 3, 1)


def _pooled(node: Node, x: Any) -> Any:
    from torch.nn import functional

    attrs = node.attrs
    if node.op == "mean":
        return x.mean(attrs["axes"], keepdim=attrs.get("keep_dims", False))
    if node.op not in ("avg_pool2d", "max_pool2d") or any(map(any, attrs["padding"])):
        raise refuse(node)
    pool = functional.avg_pool2d if node.op == "avg_pool2d" else functional.max_pool2d
    return pool(x.permute(0, 3, 1, 2), attrs["kernel"], attrs["stride"]).permute(0, 2, 3, 1)


def activated(x: Any, activation: str) -> Any:
    """The activation on a torch tensor."""
    from torch.nn import functional

    match activation:
        case "relu":
            return x.relu()
        case "relu6":
            return functional.relu6(x)  # no gradient at 0 and 6 themselves; clamp would let it through
    return x
