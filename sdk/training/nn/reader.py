"""Nodes of an exported program turned into steps, each known by what it computes rather than by how it was written."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from sdk.training.nn.conv_grad import Geometry, convolution
from sdk.training.nn.program import Ref, Step

aten = torch.ops.aten

#: Operations that are the same kind whatever their arguments.
KINDS: dict[Any, str] = {
    aten.linear.default: "linear", aten.addmm.default: "linear",
    aten.relu.default: "relu", aten.relu6.default: "relu6", aten.hardswish.default: "hardswish", aten.hardsigmoid.default: "hardsigmoid",
    aten.silu.default: "silu", aten.sigmoid.default: "sigmoid", aten.tanh.default: "tanh", aten.gelu.default: "gelu",
    aten.layer_norm.default: "layer_norm", aten.softmax.int: "softmax", aten.scaled_dot_product_attention.default: "attention",
    aten.max_pool2d.default: "max_pool2d", aten.avg_pool2d.default: "avg_pool2d", aten.adaptive_avg_pool2d.default: "adaptive_avg_pool2d",
    aten.batch_norm.default: "batch_norm", aten._native_batch_norm_legit_no_training.default: "batch_norm",
    aten.add.Tensor: "add", aten.mul.Tensor: "mul",
}  # fmt: skip
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.conv1d.padding, aten.convolution.default)
#: What leaves values as they are, in evaluation mode.
IDENTITIES = (aten.dropout.default, aten.feature_dropout.default, aten.clone.default, aten.alias.default, aten.lift_fresh_copy.default)


@dataclass(frozen=True)
class Reader:
    """symbol: the batch extent of the input (a SymInt, or an int for a fixed batch). names: placeholder -> name in the source model."""

    symbol: Any
    names: Mapping[str, str]
    values: Mapping[str, Tensor]

    def steps(self, node: fx.Node) -> list[Step]:
        """The steps of one call: mostly one; three for a 1-D convolution, which becomes a 2-D one of height 1 between two views."""
        value = node.meta.get("val")
        if isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
            return [Step(node.name, "scalar", self._scalar(value), (), {})]
        if node.target in IDENTITIES:
            return [self._step(node, "identity", _same, (self._ref(node.args[0]),))]
        if node.target is operator.getitem and self._is_norm(node.args[0]):
            return [self._step(node, "identity", _same, (self._ref(node.args[0]),))]
        kind = self._kind(node)
        match kind:
            case "conv2d":
                return self._convolution(node)
            case "linear":
                return [self._linear(node)]
            case "batch_norm":
                return [self._batch_norm(node)]
        args = self._ref(node.args)
        if kind in _CLAMPS:
            return [self._step(node, kind, _CLAMPS[kind], args[:1])]
        return [self._step(node, kind, node.target, args, self._ref(node.kwargs))]  # type: ignore[arg-type]

    def _kind(self, node: fx.Node) -> str:
        if node.target in CONVOLUTIONS:
            return "conv2d" if self._is_convolution(node) else "plain"
        if node.target in (aten.hardtanh.default, aten.clamp.default):
            bounds = [*node.args[1:3], *([None] * 2)][:2] if not node.kwargs else [None, None]
            return "relu6" if bounds == [0, 6] else "relu" if bounds == [0, None] and node.target is aten.clamp.default else "plain"
        kind = KINDS.get(node.target, "plain")
        return "plain" if kind == "linear" and self._linear_weight(node) is None else kind

    def _is_convolution(self, node: fx.Node) -> bool:
        """A 1-D or 2-D convolution of a batch, not transposed, its weight and bias parameters."""
        x, weight = node.args[0], self._constant(node.args[1])
        if not isinstance(x, fx.Node) or weight is None or weight.dim() not in (3, 4):
            return False
        transposed = node.target is aten.convolution.default and bool(node.args[6])
        value = x.meta["val"]
        return not transposed and value.dim() == weight.dim() and self._axis(value) == 0 and self._known(_at(node.args, 2))

    def _convolution(self, node: fx.Node) -> list[Step]:
        weight, geometry = self._ref(node.args[1]), _geometry(node, self.values[self._ref(node.args[1]).name])
        x, bias = self._ref(node.args[0]), self._ref(_at(node.args, 2))
        core = self._step(node, "conv2d", plain_conv2d, (x, weight, bias, geometry))
        if self.values[weight.name].dim() == 4:
            return [core]
        c, length = node.args[0].meta["val"].shape[1:]  # type: ignore[union-attr]
        o, out = core.shape[1:] if core.shape else (0, 0)
        up = Step(f"{node.name}.up", "plain", _up, (x,), {}, (None, int(c), 1, int(length)), 0)
        tall = Step(f"{node.name}.tall", "conv2d", plain_conv2d, (Ref(up.name), weight, bias, geometry), {}, (None, o, 1, out), 0)
        return [up, tall, self._step(node, "plain", _down, (Ref(tall.name),))]

    def _linear(self, node: fx.Node) -> Step:
        turned = node.target is aten.addmm.default
        x, bias = (node.args[1], node.args[0]) if turned else (node.args[0], _at(node.args, 2))
        return self._step(node, "linear", F.linear, (self._ref(x), Ref(str(self._linear_weight(node))), self._ref(bias)))

    def _linear_weight(self, node: fx.Node) -> str | None:
        """Name of the weight [O, I]; None where it is computed, scaled, or where the input's first axis is not the batch alone."""
        turned = node.target is aten.addmm.default
        x, weight, bias = (node.args[1], node.args[2], node.args[0]) if turned else (node.args[0], node.args[1], _at(node.args, 2))
        if turned:
            weight = weight.args[0] if isinstance(weight, fx.Node) and _is_turn(weight) and not node.kwargs else None
        if not isinstance(x, fx.Node) or self._axis(x.meta["val"]) != 0 or not 2 <= x.meta["val"].dim() <= 4:
            return None
        found = self._constant(weight)
        return self._key(weight) if found is not None and found.dim() == 2 and self._known(bias) else None

    def _batch_norm(self, node: fx.Node) -> Step:
        """Its arguments become (x, weight, bias, mean, variance, eps)."""
        usual = node.target is aten.batch_norm.default
        found = node.meta["val"]
        value: Tensor = found[0] if isinstance(found, (tuple, list)) else found
        args = (*self._ref(node.args[:5]), float(node.args[7 if usual else 6]))  # type: ignore[arg-type]
        return Step(node.name, "batch_norm", plain_batch_norm, args, {}, self._shape(value), self._axis(value))

    def _is_norm(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and node.target is aten._native_batch_norm_legit_no_training.default

    def _step(self, node: fx.Node, kind: str, target: Callable[..., Any], args: Any, kwargs: Mapping[str, Any] | None = None) -> Step:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return Step(node.name, kind, target, args, kwargs or {})
        return Step(node.name, kind, target, args, kwargs or {}, self._shape(value), self._axis(value))

    def _shape(self, value: Tensor) -> tuple[int | None, ...]:
        axis = self._axis(value)
        return tuple(None if i == axis else _number(extent) for i, extent in enumerate(value.shape))

    def _axis(self, value: Tensor) -> int | None:
        """The only axis whose extent is the batch itself; None where there is none, or where it is mixed with something else."""
        if not isinstance(self.symbol, torch.SymInt):
            return 0 if value.dim() and value.shape[0] == self.symbol else None
        axes = [i for i, extent in enumerate(value.shape) if isinstance(extent, torch.SymInt)]
        return axes[0] if len(axes) == 1 and value.shape[axes[0]].node.expr == self.symbol.node.expr else None  # type: ignore[attr-defined]

    def _scalar(self, value: Any) -> Callable[[int], int]:
        if isinstance(value, int):
            return Size(int(value))
        return Size(value.node.expr, self.symbol.node.expr)

    def _ref(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return Ref(self._key(arg) or arg.name)
        if isinstance(arg, Mapping):
            return {k: self._ref(v) for k, v in arg.items()}
        if isinstance(arg, Sequence) and not isinstance(arg, (str, torch.Size)):
            return tuple(self._ref(a) for a in arg) if isinstance(arg, tuple) else [self._ref(a) for a in arg]
        return arg

    def _key(self, node: Any) -> str | None:
        return self.names.get(node.name) if isinstance(node, fx.Node) and node.op == "placeholder" else None

    def _constant(self, node: Any) -> Tensor | None:
        key = self._key(node)
        return self.values.get(key) if key is not None else None

    def _known(self, bias: Any) -> bool:
        return bias is None or self._constant(bias) is not None


@dataclass(frozen=True)
class Size:
    """A size that the program computes from the batch: an int, or an expression of the batch's symbol."""

    expression: Any
    symbol: Any = None

    def __call__(self, batch: int) -> int:
        """The size for this batch."""
        return int(self.expression if self.symbol is None else self.expression.subs(self.symbol, batch))


def plain_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y [B, O, H', W'] of x [B, C, H, W]; a weight [O, I, k] is one of height 1."""
    return convolution(x, weight.unsqueeze(2) if weight.dim() == 3 else weight, bias, geometry)


def plain_batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Batch norm with stored statistics, channels on axis 1."""
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x)


_CLAMPS: dict[str, Callable[..., Any]] = {"relu": torch.relu, "relu6": _relu6}


def _same(x: Any) -> Any:
    return x


def _up(x: Tensor) -> Tensor:
    return x.unsqueeze(2)


def _down(x: Tensor) -> Tensor:
    return x.squeeze(2)


#: [B, O, 1, L] as [B, O, L]: what a 1-D convolution's result passes on its way out.
LOWERED = _down


def _at(args: Sequence[Any], index: int) -> Any:
    return args[index] if len(args) > index else None


def _number(extent: Any) -> int:
    """The extent, for a mixed one its size in the exported example."""
    return int(extent) if isinstance(extent, int) else int(extent.node.hint if extent.node.hint is not None else 0)


def _is_turn(node: fx.Node) -> bool:
    return node.target is aten.t.default or (node.target is aten.permute.default and list(node.args[1]) == [1, 0])  # type: ignore[arg-type]


def _pair(value: Any, default: int) -> tuple[int, int]:
    """(rows, columns) of a setting that may be absent, one number, or one per axis; for one axis the rows get the default."""
    if value is None or (isinstance(value, Sequence) and not value):
        return default, default
    if isinstance(value, int):
        return value, value
    numbers = [int(v) for v in value]
    return (default, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _geometry(node: fx.Node, weight: Tensor) -> Geometry:
    one = weight.dim() == 3
    full = node.target is aten.convolution.default
    stride, dilation = _pair(_at(node.args, 3), 1), _pair(_at(node.args, 5), 1)
    if one:
        stride, dilation = (1, stride[1]), (1, dilation[1])
    groups = int(_at(node.args, 8 if full else 6) or 1)
    kernel = (1, weight.shape[2]) if one else (weight.shape[2], weight.shape[3])
    padding = _at(node.args, 4)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        (top, left), (bottom, right) = (t // 2 for t in total), (t - t // 2 for t in total)
    else:
        top, left = (0, 0) if padding in (None, "valid") else _pair(padding, 0)
        top, bottom, right = (0, 0, left) if one else (top, top, left)
    return Geometry(stride, (top, bottom, left, right), dilation, groups)
