"""Ops that move values and compute nothing. Quantised values keep their scale."""

from __future__ import annotations

import math

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ops.base import ANY, Op, Shape, Use, axis_of, fixed, float_activation, same_quant


def reshape_shape(use: Use) -> Shape:
    """The attribute `shape`; as many values as the input."""
    x, shape = use.input(0), tuple(use.attr("shape"))
    if any(d < 0 for d in shape) or math.prod(shape) != x.size:
        raise use.wrong(f"{list(x.shape)} cannot be reshaped to {list(shape)}; the number of values differs")
    return shape


def reshape(use: Use) -> np.ndarray:
    """Same values, other shape; a larger batch stretches dimension 0."""
    x, shape = use.value(0), tuple(use.attr("shape"))
    if x.size != math.prod(shape) and shape and x.shape[0] % max(1, use.input(0).shape[0]) == 0:
        shape = (shape[0] * (x.shape[0] // use.input(0).shape[0]), *shape[1:])
    return x.reshape(shape)


def transpose_shape(use: Use) -> Shape:
    """Dimensions in the order of `perm`."""
    x, perm = use.input(0).shape, use.attr("perm")
    if sorted(perm) != list(range(len(x))):
        raise use.wrong(f"permutation {list(perm)} does not fit a tensor of {len(x)} dimensions")
    return tuple(x[p] for p in perm)


def transpose(use: Use) -> np.ndarray:
    """numpy's transpose."""
    return np.ascontiguousarray(use.value(0).transpose(use.attr("perm")))


def pad_shape(use: Use) -> Shape:
    """Each dimension grown by its (before, after)."""
    x, paddings = use.input(0).shape, use.attr("paddings")
    if len(paddings) != len(x) or any(len(p) != 2 or min(p) < 0 for p in paddings):
        raise use.wrong(f"paddings {paddings} do not fit shape {list(x)}; give (before, after), at least 0, per dimension")
    return tuple(d + before + after for d, (before, after) in zip(x, paddings, strict=True))


def pad(use: Use) -> np.ndarray:
    """Padded with `value`; quantised, with the value's integer (the zero point for 0)."""
    x, tensor = use.value(0), use.input(0)
    value = use.node.attrs.get("value", 0)
    if tensor.dtype in ("int8", "int16") and tensor.quant is not None:
        value = int(qm.quantise_array(np.array(value, np.float32), tensor.scale, tensor.zero_point, tensor.dtype))
    return np.pad(x, use.attr("paddings"), constant_values=np.array(value).astype(x.dtype))


def concat_shape(use: Use) -> Shape:
    """Sizes along `axis` added; all others equal."""
    shapes = [use.input(i).shape for i in range(len(use.inputs))]
    axis = axis_of(use, use.attr("axis"), len(shapes[0]))
    if any(len(s) != len(shapes[0]) or any(a != b for i, (a, b) in enumerate(zip(s, shapes[0], strict=True)) if i != axis) for s in shapes):
        raise use.wrong(f"shapes {[list(s) for s in shapes]} cannot be joined along axis {axis}")
    return tuple(sum(s[i] for s in shapes) if i == axis else d for i, d in enumerate(shapes[0]))


def concat(use: Use) -> np.ndarray:
    """The inputs one after the other along `axis`, then the activation."""
    out, activation = use.output(), use.node.attrs.get("activation", "none")
    values = [use.value(i) for i in range(len(use.inputs))]
    joined = np.concatenate(values, axis=use.attr("axis"))
    if activation == "none":
        return joined
    if out.dtype == "float32":
        return float_activation(joined, activation)
    return np.clip(joined, *qm.output_range(use.node, out)).astype(out.dtype)


def _slices(use: Use) -> tuple[tuple[int, int, int], ...]:
    begin, end, strides = use.attr("begin"), use.attr("end"), use.node.attrs.get("strides") or (1,) * len(use.attr("begin"))
    x = use.input(0).shape
    if not len(begin) == len(end) == len(strides) == len(x) or 0 in strides:
        raise use.wrong(f"begin, end and strides must have {len(x)} numbers, strides not 0")
    for i, d in enumerate(x):
        low, high = (0, d) if strides[i] > 0 else (-1, d - 1)
        if d and not (low <= begin[i] <= high and low <= end[i] <= high):
            raise use.wrong(f"range {begin[i]}:{end[i]}:{strides[i]} leaves dimension {i} of size {d}; counts start at 0, a backward end may be -1")
    return tuple(zip(begin, end, strides, strict=True))


def slice_shape(use: Use) -> Shape:
    """ceil((end - begin) / stride) per dimension."""
    return tuple(len(range(b, e, s)) for b, e, s in _slices(use))


def slice_(use: Use) -> np.ndarray:
    """Values begin, begin+stride, ... below end; an end of -1 with a negative stride includes value 0."""
    ranges, x, declared = list(_slices(use)), use.value(0), use.input(0).shape
    if declared and x.shape[0] != declared[0] and ranges[0] == (0, declared[0], 1):
        ranges[0] = (0, x.shape[0], 1)
    picks = tuple(slice(b, None if s < 0 and e == -1 else e, s) for b, e, s in ranges)
    return np.ascontiguousarray(x[picks])


def gather_shape(use: Use) -> Shape:
    """`axis` of x replaced by the shape of the indices."""
    x, indices = use.input(0).shape, use.input(1)
    axis = axis_of(use, use.attr("axis"), len(x))
    if indices.dtype not in ("int32", "int64"):
        raise use.wrong(f"its indices are {indices.dtype}; they must be int32 or int64")
    return (*x[:axis], *indices.shape, *x[axis + 1 :])


def gather(use: Use) -> np.ndarray:
    """numpy's take. Raises ModelError when an index is out of range."""
    x, indices, axis = use.value(0), use.value(1), use.attr("axis")
    if indices.size and not (indices.min() >= 0 and indices.max() < x.shape[axis]):
        raise use.wrong(f"an index lies outside 0..{x.shape[axis] - 1}")
    return np.take(x, indices, axis=axis)


def tile_shape(use: Use) -> Shape:
    """Each dimension times its multiple."""
    x, multiples = use.input(0).shape, use.attr("multiples")
    if len(multiples) != len(x) or min(multiples, default=1) < 0:
        raise use.wrong(f"multiples {list(multiples)} do not fit shape {list(x)}")
    return tuple(d * m for d, m in zip(x, multiples, strict=True))


def tile(use: Use) -> np.ndarray:
    """numpy's tile."""
    return np.tile(use.value(0), use.attr("multiples"))


def cast(use: Use) -> np.ndarray:
    """The number itself in another type (no scale involved); floats are cut towards zero, as in C."""
    with np.errstate(invalid="ignore"):
        return use.value(0).astype(use.attr("dtype"))


def cast_dtype(use: Use) -> str:
    """The attribute `dtype`."""
    return str(use.attr("dtype"))


def cast_shape(use: Use) -> Shape:
    """The input's."""
    return use.input(0).shape


OPS = (
    Op("reshape", "The same values in another shape; costs nothing on a device.", ("x",), reshape_shape, fixed(ANY, reshape),
       attrs={"shape": "output shape, no -1"}, constraints=(same_quant,), quantised=False),
    Op("transpose", "Dimensions in another order.", ("x",), transpose_shape, fixed(ANY, transpose), attrs={"perm": "output dimension i is input dimension perm[i]"},  # noqa: E501
       constraints=(same_quant,), quantised=False),
    Op("pad", "Grown at the edges with one value.", ("x",), pad_shape, fixed(ANY, pad),
       attrs={"paddings": "(before, after) per dimension", "value": "the real value to pad with, 0 by default"}, constraints=(same_quant,), quantised=False),
    Op("concat", "Tensors joined along one axis.", ("x...",), concat_shape, fixed(ANY, concat),
       attrs={"axis": "dimension to join along", "activation": "none, relu, relu6 or relu_n1_to_1"}, constraints=(same_quant,), quantised=False),
    Op("slice", "A range of each dimension.", ("x",), slice_shape, fixed(ANY, slice_),
       attrs={"begin": "first index per dimension", "end": "one past the last", "strides": "step per dimension, 1 by default"},
       constraints=(same_quant,), quantised=False),
    Op("gather", "Values of x at `indices` along one axis.", ("x", "indices"), gather_shape, fixed(ANY, gather), attrs={"axis": "dimension of x to index"},
       quantised=False),
    Op("tile", "Repeated along each dimension.", ("x",), tile_shape, fixed(ANY, tile), attrs={"multiples": "how often, per dimension"},
       constraints=(same_quant,), quantised=False),
    Op("cast", "The same numbers in another data type, without regard to scales.", ("x",), cast_shape, fixed(ANY, cast), dtype=cast_dtype,
       attrs={"dtype": "output data type"}, quantised=False),
)  # fmt: skip
