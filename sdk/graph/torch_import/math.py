"""ATen arithmetic: elementwise, reductions, matrix products, attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sdk.graph import pieces
from sdk.graph.pieces import MASKED, clamp
from sdk.graph.torch_import.walk import Call, Const, Handler, Unknown


def operand(call: Call, name: str, dtype: str) -> str:
    """An operand of a binary op in the result's type: a number becomes a constant, another type is cast."""
    value, b = call[name], call.b
    if isinstance(value, (bool, int, float)):
        return b.const(f"{b.scope}.{name}", np.array(value, dtype))
    if isinstance(value, Const):
        array = call.array(name)
        assert array is not None
        return call.walk.as_tensor(value) if str(array.dtype) == dtype else b.const(f"{b.scope}.{name}", array.astype(dtype))
    tensor = call.tensor(name)
    return tensor if b[tensor].dtype == dtype else b.op("cast", tensor, dtype=dtype)


def _computable(dtype: str) -> str:
    if dtype not in ("float32", "int32", "int64"):
        raise Unknown
    return dtype


def _binary(op: str) -> Handler:
    """a op b; add and sub have a factor `alpha` on b."""

    def handler(call: Call) -> str:
        dtype, b = _computable(call.out_dtype), call.b
        if call.args.get("rounding_mode") is not None:
            raise Unknown
        first, second = operand(call, "self", dtype), operand(call, "other", dtype)
        if call.args.get("alpha", 1) not in (None, 1):
            second = b.op("mul", second, b.const(f"{b.scope}.alpha", np.array(call["alpha"], dtype)), activation="none")
        return b.op(op, first, second, activation="none")

    return handler


def _rsub(call: Call) -> str:
    """other - alpha * self."""
    call.args["self"], call.args["other"] = call["other"], call["self"]
    return _binary("sub")(call)


def _pow(call: Call) -> str:
    """Squares, cubes, roots and reciprocals; other powers are opaque."""
    exponent, x, b = call["exponent"], call.tensor("self"), call.b
    if not isinstance(exponent, (int, float)) or b[x].dtype != "float32":
        raise Unknown
    match float(exponent):
        case 1.0:
            return x
        case 2.0:
            return b.op("mul", x, x, activation="none")
        case 3.0:
            return b.op("mul", b.op("mul", x, x, activation="none"), x, activation="none")
        case 0.5:
            return b.op("sqrt", x)
        case -0.5:
            return b.op("rsqrt", x)
        case -1.0:
            return b.op("div", b.const(f"{b.scope}.one", np.float32(1)), x, activation="none")
    raise Unknown


def _reciprocal(call: Call) -> str:
    b = call.b
    return b.op("div", b.const(f"{b.scope}.one", np.float32(1)), call.tensor("self"), activation="none")


def _square(call: Call) -> str:
    x = call.tensor("self")
    return call.b.op("mul", x, x, activation="none")


def _unary(op: str) -> Handler:
    def handler(call: Call) -> str:
        x = call.tensor("self")
        if call.b[x].dtype != "float32":
            raise Unknown
        return call.b.op(op, x)

    return handler


def _clamp(call: Call) -> str:
    """clamp, hardtanh, clamp_min, clamp_max: the named activations where the limits are theirs."""
    args = call.args
    low, high = args.get("min", args.get("min_val")), args.get("max", args.get("max_val"))
    x, b = call.tensor("self"), call.b
    if any(v is not None and not isinstance(v, (int, float)) for v in (low, high)) or b[x].dtype != "float32":
        raise Unknown
    return clamp(b, x, low, high)


def _leaky_relu(call: Call) -> str:
    return call.b.op("leaky_relu", call.tensor("self"), alpha=float(call["negative_slope"]))


def _elu(call: Call) -> str:
    if call["alpha"] != 1 or call["scale"] != 1 or call["input_scale"] != 1:
        raise Unknown
    return call.b.op("elu", call.tensor("self"))


def _prelu(call: Call) -> str:
    """alpha [C] belongs to dimension 1."""
    alpha, b, x = call.array("weight"), call.b, call.tensor("self")
    if alpha is None:
        raise Unknown
    rank = len(b.shape(x))
    alpha = alpha.reshape(-1, *[1] * (rank - 2)) if alpha.ndim == 1 and rank > 1 else alpha
    return b.op("prelu", x, b.const(f"{b.scope}.weight", alpha, call.origin("weight")))


def _gelu(call: Call) -> str:
    return call.b.op("gelu", call.tensor("self"), approximate=call["approximate"] == "tanh")


def _softmax(op: str) -> Handler:
    def handler(call: Call) -> str:
        x = call.tensor("self")
        rank = len(call.b.shape(x))
        more = {"beta": 1.0} if op == "softmax" else {}
        return call.b.op(op, x, axis=int(call["dim"]) % rank, **more)  # type: ignore[arg-type]

    return handler


def _axes(call: Call, rank: int) -> tuple[int, ...]:
    dim = call.args.get("dim")
    dims = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return tuple(sorted(int(d) % rank for d in dims))


def _reduce(op: str) -> Handler:
    def handler(call: Call) -> str:
        x = call.tensor("self")
        if call.b[x].dtype != "float32":
            raise Unknown
        return call.b.op(op, x, axes=_axes(call, len(call.b.shape(x))), keep_dims=bool(call.args.get("keepdim")))

    return handler


def _var(call: Call) -> str:
    """Variance: mean of squared differences, times n / (n - correction)."""
    x, b = call.tensor("self"), call.b
    shape = b.shape(x)
    axes, keep = _axes(call, len(shape)), bool(call.args.get("keepdim"))
    correction = call.args.get("correction")
    correction = (1 if call.args.get("unbiased", True) else 0) if correction is None else correction
    n = math.prod(shape[a] for a in axes)
    if n - correction <= 0:
        raise Unknown
    mean = b.op("mean", x, axes=axes, keep_dims=True)
    y = b.op("mean", b.op("squared_difference", x, mean, activation="none"), axes=axes, keep_dims=keep)
    return y if correction == 0 else b.op("mul", y, b.const(f"{b.scope}.factor", np.float32(n / (n - correction))), activation="none")


def _std(call: Call) -> str:
    return call.b.op("sqrt", _var(call))


def _masked_fill(call: Call) -> str:
    """masked_fill with a mask known at export."""
    mask, value = call.array("mask"), call["value"]
    fill = call.array("value") if not isinstance(value, (bool, int, float)) else np.array(value, np.float32)
    if mask is None or fill is None or call.out_dtype != "float32":
        raise Unknown
    return pieces.by_mask(call.b, call.tensor("self"), ~mask.astype(bool), fill)


def _where(call: Call) -> str:
    """where(condition, a, b) with a condition known at export and one constant side."""
    condition = call.array("condition")
    if condition is None or call.out_dtype != "float32":
        raise Unknown
    for kept, other, keep in (("self", "other", condition), ("other", "self", ~condition)):
        value = call.array(other) if isinstance(call[other], Const) else None
        if isinstance(call[other], (bool, int, float)):
            value = np.array(call[other], np.float32)
        if value is not None:
            return pieces.by_mask(call.b, call.tensor(kept), keep, value)
    raise Unknown


def _argmax(call: Call) -> str:
    x = call.tensor("self")
    if call["dim"] is None:
        raise Unknown
    axis = int(call["dim"]) % len(call.b.shape(x))
    y = call.b.op("argmax", x, axis=axis, dtype="int64")
    return call.b.op("reshape", y, shape=call.out_shape) if call["keepdim"] else y


def _max(call: Call) -> Any:
    """max over a dimension (values, indices), over everything, or of two tensors."""
    if "other" in call.args:
        return _binary("maximum")(call)
    if "dim" not in call.args:
        return _reduce("reduce_max")(call)
    return [_reduce("reduce_max")(call), _argmax(call)]


def _min(call: Call) -> Any:
    if "other" in call.args:
        return _binary("minimum")(call)
    raise Unknown


# ---- matrices ------------------------------------------------------------------------------------------------------


def matmul(call: Call, a: Any, c: Any) -> str:
    """a @ c. A constant right side [K, N] becomes dense; vectors get the missing dimension."""
    walk, b = call.walk, call.b
    right = c if isinstance(c, Const) else None
    if right is not None and right.value.dim() == 2 and len(walk.shape_of(a)) >= 2:
        weight = Const(right.value.t().contiguous(), right.origin)
        return b.op("dense", walk.as_tensor(a), walk.as_tensor(weight), "", activation="none")
    return pieces.matmul(b, walk.as_tensor(a), walk.as_tensor(c))


def _matmul(second: str) -> Handler:
    return lambda call: matmul(call, call["self"], call[second])


def _addmm(first: str, second: str) -> Handler:
    """beta * self + alpha * (first @ second)."""

    def handler(call: Call) -> str:
        bias, b = call["self"], call.b
        if call["beta"] != 1 or call["alpha"] != 1:
            raise Unknown
        right = call[second]
        if isinstance(bias, Const) and bias.value.dim() == 1 and isinstance(right, Const) and right.value.dim() == 2:
            weight = Const(right.value.t().contiguous(), right.origin)
            if bias.value.shape[0] == weight.value.shape[0]:
                return b.op("dense", call.tensor(first), call.walk.as_tensor(weight), call.tensor("self"), activation="none")
        return b.op("add", matmul(call, call[first], right), call.tensor("self"), activation="none")

    return handler


def _attention(call: Call) -> str:
    """softmax(q @ k' * scale + mask) @ v."""
    b = call.b
    q, k, v = (call.tensor(n) for n in ("query", "key", "value"))
    if call["dropout_p"] or call["enable_gqa"]:
        raise Unknown
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(b.shape(q)[-1])
    # the factor goes onto the smaller q, as torch does, not onto the scores
    scaled = b.op("mul", q, b.const(f"{b.scope}.scale", np.float32(scale)), activation="none")
    scores = b.op("batch_matmul", scaled, k, transpose_a=False, transpose_b=True)
    mask = _mask(call, b.shape(scores))
    if mask is not None:
        scores = b.op("add", scores, mask, activation="none")
    weights = b.op("softmax", scores, axis=len(b.shape(scores)) - 1, beta=1.0)
    return b.op("batch_matmul", weights, v, transpose_a=False, transpose_b=False)


def _mask(call: Call, scores: tuple[int, ...]) -> str | None:
    """What is added to the scores: 0 where attention is allowed."""
    b = call.b
    if call["is_causal"]:
        return b.const(f"{b.scope}.mask", np.triu(np.full(scores[-2:], MASKED, np.float32), 1))
    if not call.has("attn_mask"):
        return None
    if not isinstance(call["attn_mask"], Const):
        if b[call.tensor("attn_mask")].dtype != "float32":
            raise Unknown
        return call.tensor("attn_mask")
    mask = call.array("attn_mask")
    assert mask is not None
    return b.const(f"{b.scope}.mask", np.where(mask, np.float32(0), np.float32(MASKED)) if mask.dtype == bool else mask)


_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "true_divide": "div", "maximum": "maximum", "minimum": "minimum", "multiply": "mul",
           "subtract": "sub", "divide": "div"}  # fmt: skip
_UNARY = {name: name for name in ("relu", "relu6", "sigmoid", "tanh", "silu", "exp", "log", "sqrt", "rsqrt", "abs", "neg")}

HANDLERS: dict[str, Handler] = {
    **{name: _binary(op) for name, op in _BINARY.items()},
    **{name: _unary(op) for name, op in _UNARY.items()},
    "hardswish": _unary("hard_swish"),
    "hardsigmoid": _unary("hard_sigmoid"),
    "negative": _unary("neg"),
    "absolute": _unary("abs"),
    "rsub": _rsub,
    "pow": _pow,
    "square": _square,
    "reciprocal": _reciprocal,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "clip": _clamp,
    "hardtanh": _clamp,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "gelu": _gelu,
    "softmax": _softmax("softmax"),
    "_softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "_log_softmax": _softmax("log_softmax"),
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("reduce_max"),
    "max": _max,
    "min": _min,
    "var": _var,
    "std": _std,
    "argmax": _argmax,
    "masked_fill": _masked_fill,
    "where": _where,
    "matmul": _matmul("other"),
    "mm": _matmul("mat2"),
    "bmm": _matmul("mat2"),
    "addmm": _addmm("mat1", "mat2"),
    "baddbmm": _addmm("batch1", "batch2"),
    "scaled_dot_product_attention": _attention,
}
