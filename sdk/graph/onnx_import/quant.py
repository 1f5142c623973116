"""ONNX's quantised operators: each becomes real numbers between `dequantize` and `quantize`; `qdq` makes integers of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdk.graph.ir import Quant
from sdk.graph.onnx_import import layers, math, moves, pools
from sdk.graph.onnx_import.walk import Call, Const, Handler, Stored, Unknown

_RANGES: Mapping[str, tuple[int, int]] = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}


def _scale(call: Call, index: int) -> np.ndarray:
    scale = call.need(index)
    if scale.dtype.kind != "f" or not scale.size:
        raise Unknown
    return scale.astype(np.float32)


def _zero(call: Call, index: int, dtype: str) -> np.ndarray:
    """The zero point with its type; absent, 0 of `dtype`."""
    zero = call.array(index)
    return np.zeros((), dtype) if zero is None else zero


def _activation_quant(scale: np.ndarray, zero: np.ndarray) -> tuple[str, Quant]:
    """(graph's type, quantisation) of an activation: uint8 becomes int8, 128 lower. Raises Unknown for several scales."""
    kind = str(zero.dtype)
    if scale.size != 1 or zero.size != 1 or kind not in ("uint8", "int8", "int16", "int32"):
        raise Unknown
    shift = 128 if kind == "uint8" else 0
    quant = Quant((float(scale.reshape(-1)[0]),), (int(zero.reshape(-1)[0]) - shift,))
    return ("int8" if kind == "uint8" else kind), quant


def _along(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Scales or zero points so that they broadcast against a tensor of `rank` dimensions."""
    flat = values.reshape(-1)
    return flat.reshape([-1 if i == axis % rank else 1 for i in range(rank)]) if flat.size > 1 else flat.reshape([1] * rank)


# ---- to integers ---------------------------------------------------------------------------------------------------


def quantised(call: Call, x: Any, scale: np.ndarray, zero: np.ndarray, axis: int = 1) -> Any:
    """x (float) as integers: a Const at once, an activation by a `quantize` node."""
    if isinstance(x, Const):
        low, high = _RANGES[str(zero.dtype)]
        steps = np.rint(x.value / _along(scale, x.value.ndim, axis)) + _along(zero, x.value.ndim, axis)
        return Const(np.clip(steps, low, high).astype(zero.dtype), x.origin)
    if call.b[x].dtype != "float32":
        raise Unknown
    dtype, quant = _activation_quant(scale, zero)
    return call.b.op("quantize", x, quant=quant, dtype=dtype)


def _quantize(call: Call) -> Any:
    if call.attrs.get("block_size") or call.attrs.get("output_dtype") not in (None, 0, 2, 3, 5):
        raise Unknown
    named = {2: "uint8", 3: "int8", 5: "int16"}.get(call.attrs.get("output_dtype", 0), "uint8")
    zero = _zero(call, 2, named)
    if str(zero.dtype) not in _RANGES:
        raise Unknown
    return quantised(call, call.inputs[0], _scale(call, 1), zero, int(call.attrs.get("axis", 1)))


# ---- to real numbers -----------------------------------------------------------------------------------------------


def real_values(call: Call, x: Any, scale: np.ndarray, zero: np.ndarray, axis: int = 1) -> Any:
    """Integers x as float32: a Const that remembers its integers, or a `dequantize` node."""
    if isinstance(x, Const):
        return _real_const(call, x, scale, zero, axis)
    b, tensor = call.b, call.b[x]
    dtype, quant = _activation_quant(scale, zero)
    if tensor.quant is None and tensor.dtype == "uint8" and x in b.inputs and not any(x in n.inputs for n in b.nodes):
        b.tensors[x] = tensor = replace(tensor, dtype="int8", quant=quant)  # an input of integers takes int8, 128 lower
    elif tensor.quant is None and tensor.dtype == dtype and x in b.inputs:
        b.tensors[x] = tensor = replace(tensor, quant=quant)
    if tensor.dtype != dtype or tensor.quant != quant:
        raise Unknown  # integers read with another scale than they were written with
    return b.op("dequantize", x)


def _real_const(call: Call, x: Const, scale: np.ndarray, zero: np.ndarray, axis: int) -> Const:
    if x.value.dtype.kind not in "iu" or (scale.size > 1 and (not x.value.ndim or scale.size != x.value.shape[axis % x.value.ndim])):
        raise Unknown
    rank = x.value.ndim
    steps = x.value.astype(np.int64) - _along(zero.astype(np.int64), rank, axis)
    value = (steps * _along(scale, rank, axis).astype(np.float64)).astype(np.float32).reshape(x.value.shape)
    origin = x.origin or f"{call.b.scope}.const"
    stored, known = Stored(x.value, scale.reshape(-1), zero.reshape(-1).astype(np.int64)), call.walk.stored.get(origin)
    if known is not None and not _equal(known, stored):
        origin = next((o for o in call.node.output if o), f"{origin}.again")  # one initialiser, read with two scales
    call.walk.stored[origin] = stored
    return Const(value, origin)


def _equal(a: Stored, b: Stored) -> bool:
    return all(np.array_equal(x, y) for x, y in ((a.values, b.values), (a.scale, b.scale), (a.zero, b.zero)))


def _dequantize(call: Call) -> Any:
    if call.attrs.get("block_size"):
        raise Unknown
    x = call.inputs[0]
    kind = str(x.value.dtype) if isinstance(x, Const) else "uint8" if call.b[call.x()].dtype in ("uint8", "int8") else call.b[call.x()].dtype
    zero = call.array(2)
    if zero is None and not isinstance(x, Const):
        zero = _implied_zero(call, kind)
    return real_values(call, x, _scale(call, 1), np.zeros((), kind) if zero is None else zero, int(call.attrs.get("axis", 1)))


def _implied_zero(call: Call, kind: str) -> np.ndarray:
    """0 in the type that x was written with: int8 with zero point -128 was uint8 with 0."""
    quant = call.b[call.x()].quant
    return np.zeros((), "int8" if quant is not None and kind == "uint8" and quant.zero_point[0] == 0 else kind)


# ---- QLinear operators ---------------------------------------------------------------------------------------------


def _as_float(call: Call, kind: str, inputs: Sequence[Any], attrs: Mapping[str, Any], handlers: Mapping[str, Handler]) -> str:
    """The float operator `kind` on other inputs."""
    inner = Call(call.walk, call.node, tuple(inputs), attrs)
    made = handlers[kind](inner)
    return call.walk.as_tensor(made[0] if isinstance(made, list) else made)


def _triple(call: Call, at: int, axis: int = 0) -> Any:
    """Real values of inputs at .. at+2: integers, scale, zero point."""
    x = call.inputs[at] if at < len(call.inputs) else None
    if x is None:
        raise Unknown
    kind = str(x.value.dtype) if isinstance(x, Const) else "uint8"
    return real_values(call, x, _scale(call, at + 1), _zero(call, at + 2, kind), axis)


def _ended(call: Call, y: str, at: int) -> Any:
    """y as integers by the scale and zero point at inputs at, at+1."""
    return quantised(call, y, _scale(call, at), _zero(call, at + 1, "uint8"))


def _qlinear_conv(call: Call) -> Any:
    """(x, xs, xz, w, ws, wz, ys, yz, bias): the bias has scale xs * ws."""
    bias = None
    if call.has(8):
        scale = (_scale(call, 1).reshape(-1).astype(np.float64) * _scale(call, 4).reshape(-1)).astype(np.float32)
        bias = real_values(call, call.inputs[8], scale, np.zeros((), "int32"), 0)
    y = _as_float(call, "Conv", (_triple(call, 0), _triple(call, 3), bias), call.attrs, layers.HANDLERS)
    return _ended(call, y, 6)


def _qlinear_matmul(call: Call) -> Any:
    y = _as_float(call, "MatMul", (_triple(call, 0), _triple(call, 3, 1)), {}, layers.HANDLERS)
    return _ended(call, y, 6)


def _qgemm(call: Call) -> Any:
    """com.microsoft.QGemm (a, as, az, b, bs, bz, c, ys, yz): c has scale alpha * as * bs; no ys means a float result."""
    alpha = np.float32(call.attrs.get("alpha", 1.0))
    bias = None
    if call.has(6):
        scale = (alpha * _scale(call, 1).reshape(-1).astype(np.float64) * _scale(call, 4).reshape(-1)).astype(np.float32)
        bias = real_values(call, call.inputs[6], scale, np.zeros((), "int32"), -1)
    weight = _triple(call, 3, 0 if call.attrs.get("transB") else 1)
    y = _as_float(call, "Gemm", (_triple(call, 0), weight, bias), call.attrs, layers.HANDLERS)
    return _ended(call, y, 7) if call.has(7) else y


def _qlinear_binary(kind: str) -> Handler:
    """com.microsoft.QLinearAdd, QLinearMul: two triples, then the output's scale and zero point."""
    return lambda call: _ended(call, _as_float(call, kind, (_triple(call, 0), _triple(call, 3)), {}, math.HANDLERS), 6)


def _qlinear_unary(kind: str, handlers: Mapping[str, Handler], change: Callable[[Call], Mapping[str, Any]] = lambda call: call.attrs) -> Handler:
    """One triple, then the output's scale and zero point."""

    def handler(call: Call) -> Any:
        if call.attrs.get("channels_last"):
            raise Unknown
        return _ended(call, _as_float(call, kind, (_triple(call, 0),), change(call), handlers), 3)

    return handler


def _qlinear_concat(call: Call) -> Any:
    """(ys, yz, then triples)."""
    values = [_triple(call, at) for at in range(2, len(call.inputs), 3)]
    return _ended(call, _as_float(call, "Concat", values, call.attrs, moves.HANDLERS), 0)


def _qlinear_softmax(call: Call) -> Any:
    """com.microsoft.QLinearSoftmax names the opset whose Softmax it is."""
    if int(call.attrs.get("opset", 13)) < 13 and int(call.attrs.get("axis", -1)) not in (-1, len(call.shape()) - 1):
        raise Unknown
    return _ended(call, _as_float(call, "Softmax", (_triple(call, 0),), call.attrs, math.HANDLERS), 3)


HANDLERS: dict[str, Handler] = {
    "QuantizeLinear": _quantize,
    "com.microsoft.QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "com.microsoft.DequantizeLinear": _dequantize,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "com.microsoft.QGemm": _qgemm,
    "com.microsoft.QLinearAdd": _qlinear_binary("Add"),
    "com.microsoft.QLinearMul": _qlinear_binary("Mul"),
    "com.microsoft.QLinearSigmoid": _qlinear_unary("Sigmoid", math.HANDLERS),
    "com.microsoft.QLinearLeakyRelu": _qlinear_unary("LeakyRelu", math.HANDLERS),
    "com.microsoft.QLinearAveragePool": _qlinear_unary("AveragePool", pools.HANDLERS),
    "com.microsoft.QLinearGlobalAveragePool": _qlinear_unary("GlobalAveragePool", pools.HANDLERS),
    "com.microsoft.QLinearReduceMean": _qlinear_unary("ReduceMean", math.HANDLERS),
    "com.microsoft.QLinearConcat": _qlinear_concat,
    "com.microsoft.QLinearSoftmax": _qlinear_softmax,
}
