"""ONNX arithmetic: elementwise, activations, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdk.graph import pieces
from sdk.graph.onnx_import.walk import Call, Const, Handler, Unknown


def real(call: Call, index: int = 0) -> str:
    """Input `index`, which must be float32. Raises Unknown for other types."""
    x = call.x(index)
    if call.b[x].dtype != "float32":
        raise Unknown
    return x


def number(call: Call, name: str, value: float) -> str:
    """A float constant of one value."""
    return call.b.const(f"{call.b.scope}.{name}", np.float32(value))


def _two(call: Call, op: str, a: str, c: str) -> str:
    return call.b.op(op, a, c, activation="none")


def _binary(op: str) -> Handler:
    def handler(call: Call) -> str:
        a, c = call.x(0), call.x(1)
        if call.b[a].dtype != call.b[c].dtype or call.b[a].dtype not in ("float32", "int32", "int64"):
            raise Unknown
        return _two(call, op, a, c)

    return handler


def _fold(op: str) -> Handler:
    """An op of two, over any number of inputs."""

    def handler(call: Call) -> str:
        y = real(call, 0)
        for i in range(1, len(call.inputs)):
            y = _two(call, op, y, real(call, i))
        return y

    return handler


def _mean(call: Call) -> str:
    return _two(call, "mul", _fold("add")(call), number(call, "share", 1 / len(call.inputs)))


def _unary(op: str) -> Handler:
    return lambda call: call.b.op(op, real(call))


def _pow(call: Call) -> str:
    """Squares, cubes, roots and reciprocals; other powers are opaque."""
    exponent, x, b = call.need(1), real(call), call.b
    if exponent.size != 1:
        raise Unknown
    match float(exponent.reshape(-1)[0]):
        case 1.0:
            return x
        case 2.0:
            return _two(call, "mul", x, x)
        case 3.0:
            return _two(call, "mul", _two(call, "mul", x, x), x)
        case 0.5:
            return b.op("sqrt", x)
        case -0.5:
            return b.op("rsqrt", x)
        case -1.0:
            return _two(call, "div", number(call, "one", 1), x)
    raise Unknown


def _reciprocal(call: Call) -> str:
    return _two(call, "div", number(call, "one", 1), real(call))


# ---- activations ---------------------------------------------------------------------------------------------------


def _limit(call: Call, name: str, index: int) -> float | None:
    if name in call.attrs:
        return float(call.attrs[name])
    value = call.array(index)
    return None if value is None or value.size == 0 else float(value.reshape(-1)[0])


def _clip(call: Call) -> str:
    """Limits are attributes before opset 11, inputs since; those beyond float32 mean none."""
    low, high = _limit(call, "min", 1), _limit(call, "max", 2)
    edge = float(np.finfo(np.float32).max)
    return pieces.clamp(call.b, real(call), None if low is None or low <= -edge else low, None if high is None or high >= edge else high)


def _leaky_relu(call: Call) -> str:
    return call.b.op("leaky_relu", real(call), alpha=float(call.attrs.get("alpha", 0.01)))


def _prelu(call: Call) -> str:
    return call.b.op("prelu", real(call), real(call, 1))


def _stretched_elu(call: Call, x: str, alpha: float, gamma: float = 1.0) -> str:
    """gamma * (relu(x) + alpha * (elu(x) - relu(x))): x above zero, alpha * (exp(x) - 1) below."""
    b = call.b
    y = b.op("elu", x)
    if alpha != 1:
        positive = b.op("relu", x)
        y = _two(call, "add", positive, _two(call, "mul", _two(call, "sub", y, positive), number(call, "alpha", alpha)))
    return y if gamma == 1 else _two(call, "mul", y, number(call, "gamma", gamma))


def _elu(call: Call) -> str:
    return _stretched_elu(call, real(call), float(call.attrs.get("alpha", 1.0)))


def _selu(call: Call) -> str:
    alpha, gamma = call.attrs.get("alpha", 1.67326319217681884765625), call.attrs.get("gamma", 1.05070102214813232421875)
    return _stretched_elu(call, real(call), float(alpha), float(gamma))


def _celu(call: Call) -> str:
    """alpha * elu(x / alpha)."""
    alpha = float(call.attrs.get("alpha", 1.0))
    if alpha == 1:
        return call.b.op("elu", real(call))
    y = call.b.op("elu", _two(call, "mul", real(call), number(call, "inverse", 1 / alpha)))
    return _two(call, "mul", y, number(call, "alpha", alpha))


def _softplus(call: Call) -> str:
    """log(1 + exp(x)), written so that large x does not overflow: relu(x) + log(1 + exp(-|x|))."""
    b, x = call.b, real(call)
    small = b.op("log", _two(call, "add", b.op("exp", b.op("neg", b.op("abs", x))), number(call, "one", 1)))
    return _two(call, "add", b.op("relu", x), small)


def _mish(call: Call) -> str:
    return _two(call, "mul", real(call), call.b.op("tanh", _softplus(call)))


def _softsign(call: Call) -> str:
    x = real(call)
    return _two(call, "div", x, _two(call, "add", call.b.op("abs", x), number(call, "one", 1)))


def _hard_sigmoid(call: Call) -> str:
    """clip(alpha * x + beta, 0, 1); the graph's own op where alpha and beta are 1/6 and 1/2."""
    alpha, beta = float(call.attrs.get("alpha", 0.2)), float(call.attrs.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return call.b.op("hard_sigmoid", real(call))
    line = _two(call, "add", _two(call, "mul", real(call), number(call, "alpha", alpha)), number(call, "beta", beta))
    return call.b.op("clip", line, min=0.0, max=1.0)


def _swish(call: Call) -> str:
    """x * sigmoid(alpha * x)."""
    alpha, x, b = float(call.attrs.get("alpha", 1.0)), real(call), call.b
    if alpha == 1:
        return b.op("silu", x)
    return _two(call, "mul", x, b.op("sigmoid", _two(call, "mul", x, number(call, "alpha", alpha))))


def _gelu(call: Call) -> str:
    return call.b.op("gelu", real(call), approximate=call.attrs.get("approximate", "none") == "tanh")


def _erf(call: Call) -> Sequence[str]:
    """No op of the graph; the gelu it is nearly always part of is found by `patterns`."""
    x = real(call)
    return call.b.opaque("Erf", (x,), ((call.b.shape(x), "float32"),))


def _fast_gelu(call: Call) -> str:
    x = _two(call, "add", real(call), real(call, 1)) if call.has(1) else real(call)
    return call.b.op("gelu", x, approximate=True)


def _bias_gelu(call: Call) -> str:
    return call.b.op("gelu", _two(call, "add", real(call), real(call, 1)), approximate=False)


def _softmax(op: str) -> Handler:
    """Before opset 13 all dimensions from `axis` on are one."""

    def handler(call: Call) -> str:
        x, shape, b = real(call), call.shape(), call.b
        more = {"beta": 1.0} if op == "softmax" else {}
        axis = int(call.attrs.get("axis", 1 if call.opset < 13 else -1))
        if not -len(shape) <= axis < max(len(shape), 1):
            raise ValueError(f"axis {axis} does not exist in {list(shape)}")
        axis %= max(len(shape), 1)
        if call.opset >= 13 or math.prod(shape[axis + 1 :]) == 1:
            return b.op(op, x, axis=axis, **more)  # type: ignore[arg-type]
        flat = b.op("reshape", x, shape=(math.prod(shape[:axis]), math.prod(shape[axis:])))
        return b.op("reshape", b.op(op, flat, axis=1, **more), shape=shape)  # type: ignore[arg-type]

    return handler


# ---- reductions ----------------------------------------------------------------------------------------------------


def _axes(call: Call, rank: int) -> tuple[int, ...] | None:
    """Axes from the attribute or, in newer opsets, the input; None when nothing is to be reduced."""
    axes = call.ints("axes", 1)
    if not axes:
        return None if call.attrs.get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(a % rank for a in axes))


def _reduced(call: Call, op: str, x: str) -> str:
    axes = _axes(call, len(call.b.shape(x)))
    return x if axes is None else call.b.op(op, x, axes=axes, keep_dims=bool(call.attrs.get("keepdims", 1)))


def _reduce(op: str, before: Sequence[str] = (), after: Sequence[str] = ()) -> Handler:
    """A reduction between unary ops; "square" stands for x * x."""

    def handler(call: Call) -> str:
        x = real(call)
        for step in before:
            x = _two(call, "mul", x, x) if step == "square" else call.b.op(step, x)
        x = _reduced(call, op, x)
        for step in after:
            x = call.b.op(step, x)
        return x

    return handler


def _arg(sign: int) -> Handler:
    def handler(call: Call) -> str:
        if call.attrs.get("select_last_index"):
            raise Unknown
        b, x = call.b, real(call)
        x = x if sign > 0 else b.op("neg", x)
        shape = b.shape(x)
        axis = int(call.attrs.get("axis", 0)) % len(shape)
        y = b.op("argmax", x, axis=axis, dtype="int64")
        return b.op("reshape", y, shape=(*shape[:axis], 1, *shape[axis + 1 :])) if call.attrs.get("keepdims", 1) else y

    return handler


def _where(call: Call) -> str:
    """A condition and one side known at import: a mask."""
    condition = call.need(0).astype(bool)
    for kept, other, keep in ((1, 2, condition), (2, 1, ~condition)):
        if isinstance(call.inputs[other], Const):
            x = real(call, kept)
            shape = np.broadcast_shapes(call.shape(0), call.shape(1), call.shape(2))
            return pieces.by_mask(call.b, pieces.expand(call.b, x, shape), keep, call.need(other))
    raise Unknown


_UNARY = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs", "Neg": "neg",
          "HardSwish": "hard_swish"}  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **{name: _unary(op) for name, op in _UNARY.items()},
    **{name: _binary(op) for name, op in {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}.items()},
    "Sum": _fold("add"),
    "Max": _fold("maximum"),
    "Min": _fold("minimum"),
    "Mean": _mean,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Mish": _mish,
    "HardSigmoid": _hard_sigmoid,
    "Swish": _swish,
    "Erf": _erf,
    "Gelu": _gelu,
    "com.microsoft.Gelu": _gelu,
    "com.microsoft.FastGelu": _fast_gelu,
    "com.microsoft.BiasGelu": _bias_gelu,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "ReduceMax": _reduce("reduce_max"),
    "ReduceMin": _reduce("reduce_max", ("neg",), ("neg",)),
    "ReduceL1": _reduce("sum", ("abs",)),
    "ReduceL2": _reduce("sum", ("square",), ("sqrt",)),
    "ReduceSumSquare": _reduce("sum", ("square",)),
    "ReduceLogSum": _reduce("sum", (), ("log",)),
    "ArgMax": _arg(1),
    "ArgMin": _arg(-1),
    "Where": _where,
}
