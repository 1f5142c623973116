"""Which parts of a traced network compute one affine map of one tensor, and what that map is."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sdk.prepare.tlc.nn import affine
from sdk.prepare.tlc.nn.activations import name_of
from sdk.prepare.tlc.nn.affine import Affine
from sdk.prepare.tlc.nn.nodes import (
    BATCH_NORMS,
    CONVOLUTIONS,
    ChannelAffine,
    is_add,
    is_average,
    is_dropout,
    is_flatten,
    is_linear,
    is_pad,
    module_of,
    operands,
    pad_amounts,
    shape_of,
)


@dataclass(frozen=True, eq=False)
class Span:
    """The nodes between a tensor `start` and `end` (the last of `nodes`, in order of computation) that nothing outside reads.

    value: what they compute, activations taken as the identity. hoisted: pooling and flattening, which a merged span does first.
    """

    start: fx.Node
    nodes: tuple[fx.Node, ...]
    value: Affine
    hoisted: tuple[fx.Node, ...]
    closes: bool

    @property
    def end(self) -> fx.Node:
        """The node whose value the merged op makes."""
        return self.nodes[-1]


def spans(module: fx.GraphModule, max_kernel: int, ops: Container[str] | None = None) -> Iterator[Span]:
    """Every part that could be one op, in order of its start; kernels up to `max_kernel`. ops: only those that start where one of these reads."""
    shared = shared_targets(module)
    linear = [node for node in module.graph.nodes if is_linear(module, node) and (ops is None or node.target in ops)]
    starts = dict.fromkeys(origin(node.args[0]) for node in linear)
    order = {node: i for i, node in enumerate(module.graph.nodes)}
    for start in starts:
        values = reached(module, start, shared, max_kernel)
        for node in values:
            if is_linear(module, node) or is_add(node):
                yield from _span(module, start, node, values, order)


def shared_targets(module: fx.GraphModule) -> frozenset[str]:
    """Modules that several nodes call: their weights cannot be changed for one of them."""
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    identities = [id(module.get_submodule(target)) for target in calls]
    return frozenset(target for target, key in zip(calls, identities, strict=True) if identities.count(key) > 1)


def origin(node: object) -> fx.Node:
    """The tensor before any padding."""
    while isinstance(node, fx.Node) and is_pad(node):
        node = node.args[0]
    assert isinstance(node, fx.Node), "a layer reads a tensor"
    return node


def reached(module: fx.GraphModule, start: fx.Node, shared: frozenset[str], max_kernel: int) -> dict[fx.Node, Affine]:
    """{node: what it computes of `start`} on the "meta" device, for every node that is affine in `start` alone."""
    beginning = _beginning(module, start)
    values = {} if beginning is None else {start: beginning}
    todo = list(start.users) if values else []
    while todo:
        node = todo.pop(0)
        if node in values or not all(operand in values for operand in operands(node)) or str(node.target) in shared:
            continue
        value = step(module, node, values, "meta")
        if value is not None and max(value.kernel) <= max_kernel:
            values[node] = value
            todo.extend(node.users)
    return values


def _beginning(module: fx.GraphModule, start: fx.Node, device: str = "meta") -> Affine | None:
    """The identity of `start`, with the axes of the layers that read it."""
    shape = shape_of(start)
    kinds = {isinstance(module_of(module, reader), CONVOLUTIONS) for user in start.users for reader in _readers(module, user)}
    if shape is None or len(shape) < 2 or len(kinds) != 1 or start.op == "get_attr":
        return None
    convolved = kinds.pop()
    if convolved and len(shape) not in (3, 4):
        return None
    return affine.identity(shape[1] if convolved else shape[-1], len(shape) - 2 if convolved else 1, device)


def _readers(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """`node`, or the linear ops behind it where it pads."""
    found = [node] if not is_pad(node) else [r for user in node.users for r in _readers(module, user)]
    return [n for n in found if is_linear(module, n)]


def step(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Affine], device: str) -> Affine | None:
    """What `node` computes of the start, from what its operands do; None where that is not affine."""
    inputs = [values[operand] for operand in operands(node)]
    if is_add(node):
        return affine.both(*[values[a] for a in node.args if isinstance(a, fx.Node)])
    if len(inputs) != 1:
        return None
    first, layer = inputs[0], module_of(module, node)
    if is_pad(node):
        amounts = pad_amounts(node)
        return None if amounts is None or len(amounts) != len(first.kernel) else affine.padded(first, amounts)
    if is_dropout(module, node):
        return first
    if is_linear(module, node):
        second = None if layer is None else affine.of_layer(layer, device)
        return None if second is None or len(second.kernel) != len(first.kernel) else affine.then(first, second)
    if isinstance(layer, BATCH_NORMS):
        return _normed(layer, first, shape_of(node) or (), device)
    if first.blank:
        return None
    if isinstance(layer, ChannelAffine):
        return affine.scaled(first, layer.scale.to(device, torch.float64), layer.shift.to(device, torch.float64))
    if name_of(layer) is not None:
        return first
    return _hoisted(module, node, first)


def _normed(layer: nn.Module, first: Affine, shape: tuple[int, ...], device: str) -> Affine | None:
    if not isinstance(layer.running_mean, Tensor) or len(shape) != len(first.kernel) + (1 if len(shape) == 2 else 2):
        return None  # statistics of each batch are no constants; [N, C, L] of a linear layer is normalised over the wrong axis
    if device == "meta":
        return affine.scaled(first, first.bias, first.bias)
    scale, shift = norm_scale(layer)
    return affine.scaled(first, scale.to(device), shift.to(device))


def norm_scale(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """(scale [C], shift [C]) in float64 of a batch norm with running statistics, in evaluation mode."""
    mean, variance, weight, bias = (getattr(layer, name) for name in ("running_mean", "running_var", "weight", "bias"))
    scale: Tensor = 1 / torch.sqrt(variance.detach().double() + float(layer.eps))  # type: ignore[arg-type]
    scale = scale if weight is None else scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    return scale, shift if bias is None else shift + bias.detach().double()


def _hoisted(module: fx.GraphModule, node: fx.Node, first: Affine) -> Affine | None:
    """An average, or flattening what it left, may come before a pointwise map instead of after it."""
    if not first.pointwise:
        return None
    if is_average(module, node):
        return first
    source = shape_of(node.all_input_nodes[0])
    if is_flatten(module, node) and source is not None and set(source[2:]) == {1}:
        flat = first.weight.flatten(2)
        return Affine(flat, first.bias, (1,), (0,), first.groups, exact=first.exact)
    return None


def _span(module: fx.GraphModule, start: fx.Node, node: fx.Node, values: dict[fx.Node, Affine], order: dict[fx.Node, int]) -> Iterator[Span]:
    """The span that ends with `node`, and with a batch norm that alone reads it, where nothing outside reads what lies within."""
    cone = _cone(start, node)
    if any(user not in cone for inner in cone if inner is not node for user in inner.users):
        return
    linear, adds = sum(is_linear(module, n) for n in cone), sum(is_add(n) for n in cone)
    hoisted = [n for n in cone if is_average(module, n) or is_flatten(module, n)]
    if linear + bool(adds) < 2 or linear == 0 or (hoisted and adds):
        return
    end = node
    while len(end.users) == 1 and isinstance(module_of(module, user := next(iter(end.users))), BATCH_NORMS) and user in values:
        end = user
        cone.add(end)
    nodes = tuple(sorted(cone, key=order.__getitem__))
    yield Span(start, nodes, values[end], tuple(n for n in nodes if n in hoisted), is_add(node))


def _cone(start: fx.Node, node: fx.Node) -> set[fx.Node]:
    """What `node` needs of `start`, itself included."""
    cone: set[fx.Node] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if current not in cone and current is not start:
            cone.add(current)
            todo.extend(operands(current))
    return cone


def computed(module: fx.GraphModule, span: Span) -> Affine:
    """What a span computes, with its weights, on the CPU in float64."""
    beginning = _beginning(module, span.start, "cpu")
    assert beginning is not None, "a span starts where one was found"
    values = {span.start: beginning}
    for node in span.nodes:
        value = step(module, node, values, "cpu")
        assert value is not None, f"{node.name} was affine a moment ago"
        values[node] = value
    return values[span.end]


def within(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(linear ops, activations removed or not) among `nodes`, in order of computation."""
    ops = tuple(str(n.target) for n in nodes if is_linear(module, n))
    acts = tuple(str(n.target) for n in nodes if isinstance(m := module_of(module, n), ChannelAffine) or name_of(m) is not None)
    return ops, acts
