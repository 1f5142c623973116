"""OFF channels taken out of the weights: fewer rows in the layer that makes them, fewer columns in those that read them.

What an OFF channel holds is the same number everywhere, so the layers that read it get it in their bias. That is exact where the number is zero
or the reader pads nothing; other channels stay. Cuts go through depthwise convolutions, norms, pooling and activations that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from sdk.prepare.tlc.nn.activations import name_of
from sdk.prepare.tlc.nn.nodes import BATCH_NORMS, ChannelAffine, is_dropout, is_flatten, is_linear, is_pad, is_pool, module_of, pad_amounts, shape_of
from sdk.prepare.tlc.nn.spans import norm_scale, shared_targets

Edit = Callable[[], None]


@dataclass
class Cut:
    """What one cut does. off: bool [C], the channels that can go; shrinks where one cannot. edits: the changes, for when all can."""

    off: Tensor
    possible: bool = True
    edits: list[Edit] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Constant:
    """What OFF channels hold on the way forward. values: float64 [C * repeat]; repeat: columns a channel has behind a flatten."""

    values: Tensor
    repeat: int = 1


@torch.no_grad()
def cut(module: fx.GraphModule) -> fx.GraphModule:
    """The network, changed in place, without the OFF channels that can go; in evaluation mode it computes the same.

    One channel stays where all are OFF: no layer has a width of zero.
    """
    for node in list(module.graph.nodes):
        layer = module_of(module, node)
        if isinstance(layer, ChannelAffine) and not bool(layer.on.all()):
            _cut_at(module, node, layer)
    return module


def _cut_at(module: fx.GraphModule, node: fx.Node, layer: ChannelAffine) -> None:
    off = ~layer.on
    if bool(off.all()):
        off[0] = False
    shared = shared_targets(module)
    while bool(off.any()):
        attempt = Cut(off.clone())
        _backward(module, node, attempt, shared)
        for user in node.users:
            _forward(module, node, user, Constant(layer.shift.double()), attempt, shared)
        if not attempt.possible:
            return
        if bool((attempt.off == off).all()):
            attempt.edits.append(partial(_keep, layer, ("scale", "shift"), ~off))
            for edit in attempt.edits:
                edit()
            return
        off = attempt.off


def _backward(module: fx.GraphModule, node: fx.Node, attempt: Cut, shared: frozenset[str]) -> None:
    """Up to the layer that makes the channels; on the way nobody else may read them."""
    keep = ~attempt.off
    for source in _upwards(node):
        layer = module_of(module, source)
        if len(source.users) != 1 or str(source.target) in shared:
            break
        if is_linear(module, source) and layer is not None and not _depthwise(layer):
            attempt.possible = attempt.possible and getattr(layer, "groups", 1) == 1
            attempt.edits.append(partial(_keep_rows, layer, keep))
            return
        if layer is not None and (edit := _elementwise(layer, keep)) is not None:
            attempt.edits.append(edit)
        elif not (name_of(layer) or is_dropout(module, source) or is_pad(source)):
            break
    attempt.possible = False


def _upwards(node: fx.Node) -> Iterator[fx.Node]:
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        yield node


def _elementwise(layer: nn.Module, keep: Tensor) -> Edit | None:
    """The cut of a layer that treats each channel alone; None where it is none."""
    if isinstance(layer, BATCH_NORMS) and isinstance(layer.running_mean, Tensor):
        return partial(_keep, layer, ("weight", "bias", "running_mean", "running_var"), keep)
    if isinstance(layer, ChannelAffine):
        return partial(_keep, layer, ("scale", "shift"), keep)
    return partial(_keep_depthwise, layer, keep) if _depthwise(layer) else None


def _forward(module: fx.GraphModule, source: fx.Node, node: fx.Node, constant: Constant, attempt: Cut, shared: frozenset[str]) -> None:
    """Follow the constants to every layer that reads them."""
    layer, values = module_of(module, node), constant.values
    off = attempt.off.repeat_interleave(constant.repeat)
    if str(node.target) in shared or node.op == "output":
        attempt.possible = False
        return
    if is_linear(module, node) and layer is not None and not _depthwise(layer):
        _needs_no_padding(layer, constant, attempt)
        attempt.possible = attempt.possible and getattr(layer, "groups", 1) == 1
        attempt.edits.append(partial(_keep_columns, layer, ~off, values))
        return
    after = _passed(module, node, layer, constant, attempt)
    if after is None:
        attempt.possible = False
        return
    if layer is not None and (edit := _elementwise(layer, ~off)) is not None:
        attempt.edits.append(edit)
    for user in node.users:
        _forward(module, node, user, after, attempt, shared)


def _passed(module: fx.GraphModule, node: fx.Node, layer: nn.Module | None, constant: Constant, attempt: Cut) -> Constant | None:
    """What the constants are behind `node`; None where channels do not stay apart there."""
    values = constant.values
    if isinstance(layer, BATCH_NORMS) and isinstance(layer.running_mean, Tensor):
        scale, shift = norm_scale(layer)
        return replace(constant, values=values * scale + shift) if constant.repeat == 1 else None
    if isinstance(layer, ChannelAffine):
        return replace(constant, values=values * layer.scale.double() + layer.shift.double()) if constant.repeat == 1 else None
    if layer is not None and _depthwise(layer):
        _needs_no_padding(layer, constant, attempt)
        weight, bias = layer.weight, layer.bias
        made = values * weight.double().flatten(1).sum(1)  # type: ignore[operator, union-attr]
        return replace(constant, values=made if bias is None else made + bias.double())  # type: ignore[operator, union-attr]
    if name_of(layer) is not None and layer is not None:
        return replace(constant, values=layer(values))
    if is_pad(node):
        if max(pad_amounts(node) or (0,)) > 0:
            _only_zeros(constant, attempt)
        return constant
    if is_flatten(module, node):
        return _flattened(node, constant)
    return _pooled(module, node, layer, constant, attempt)


def _pooled(module: fx.GraphModule, node: fx.Node, layer: nn.Module | None, constant: Constant, attempt: Cut) -> Constant | None:
    if is_pool(module, node):
        if layer is None and len(node.args) > 2:
            return None  # a function with strides and padding of its own
        if isinstance(layer, nn.AvgPool1d | nn.AvgPool2d) and any(_pair(layer.padding)):
            _only_zeros(constant, attempt)
        return constant
    return constant if is_dropout(module, node) else None


def _flattened(node: fx.Node, constant: Constant) -> Constant | None:
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if before is None or after is None or constant.repeat != 1:
        return None
    repeat = after[1] // before[1]
    return Constant(constant.values.repeat_interleave(repeat), repeat)


def _needs_no_padding(layer: nn.Module, constant: Constant, attempt: Cut) -> None:
    padding = getattr(layer, "padding", 0)
    if padding == "same" or (padding != "valid" and any(_pair(padding))):
        _only_zeros(constant, attempt)


def _only_zeros(constant: Constant, attempt: Cut) -> None:
    """Channels whose constant is not zero stay: padding puts zeros beside it, and a bias knows of no border."""
    attempt.off &= ~(constant.values.view(-1, constant.repeat) != 0).any(1)


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _pair(value: object) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)  # type: ignore[arg-type]


def _keep(layer: nn.Module, names: tuple[str, ...], keep: Tensor) -> None:
    for name in names:
        values = getattr(layer, name)
        if isinstance(values, nn.Parameter):
            setattr(layer, name, nn.Parameter(values.detach()[keep]))
        elif isinstance(values, Tensor):
            setattr(layer, name, values[keep])
    if isinstance(layer, BATCH_NORMS):
        layer.num_features = int(keep.sum())


def _keep_rows(layer: nn.Module, keep: Tensor) -> None:
    _keep(layer, ("weight", "bias"), keep)
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", int(keep.sum()))


def _keep_depthwise(layer: nn.Module, keep: Tensor) -> None:
    _keep_rows(layer, keep)
    layer.groups = layer.in_channels = int(keep.sum())  # type: ignore[assignment]


def _keep_columns(layer: nn.Module, keep: Tensor, constants: Tensor) -> None:
    """weight [O, C, ...] -> [O, C', ...]; what the columns that go would have added goes into the bias."""
    weight = layer.weight.detach()  # type: ignore[union-attr, operator]
    added = weight.double().flatten(2).sum(2) if weight.ndim > 2 else weight.double()
    added = added[:, ~keep] @ constants[~keep]
    if bool(added.any()):
        before = 0 if layer.bias is None else layer.bias.detach().double()  # type: ignore[union-attr, operator]
        layer.bias = nn.Parameter((added + before).to(weight))
    layer.weight = nn.Parameter(weight[:, keep].contiguous())
    setattr(layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", int(keep.sum()))
