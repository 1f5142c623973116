"""Ops that move values: transpose, slice, tile, pad, concat, gather, resizing."""

from __future__ import annotations

import math

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ir import Tensor
from sdk.graph.ops import resize as meaning
from sdk.kernels.base import Call, Fields, Lowered, Ref, Refused, Site, Value, source
from sdk.kernels.geometry import merge, padded, strides
from sdk.kernels.ops.conv import ends
from sdk.kernels.quant import item

RANK = 6  # EMBARQ_MOVE_DIMS
PARTS = 8  # EMBARQ_PARTS


def _strided(shape: tuple[int, ...], in_steps: list[int], out_steps: list[int], size: int, in_offset: int = 0, out_offset: int = 0) -> Value | Refused:
    """`embarq_strided` from steps in elements."""
    dims, walks = merge(shape, in_steps, out_steps)
    fitted = padded(dims, walks, RANK)
    if fitted is None:
        return Refused(f"it walks over more than {RANK} dimensions", "reshape it to fewer")
    inner, (a, b) = fitted
    return inner, tuple(s * size for s in a), tuple(s * size for s in b), in_offset * size, out_offset * size, size


def _copy(site: Site, strided: Value | Refused) -> Lowered:
    if isinstance(strided, Refused):
        return strided
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (("input", source(site, 0, constants)), ("output", Ref("tensor", site.output.name)), ("strided", strided))
    return Call(site.node.name, "embarq_copy_strided", "embarq_copy_params", fields, constants, sources=("move.c",))


def reshape(site: Site) -> Lowered:
    """The same values: a copy, for a constant has no bytes in the arena."""
    steps = strides(site.output.shape)
    return _copy(site, _strided(site.output.shape, steps, steps, item(site.output.dtype)))


def transpose(site: Site) -> Lowered:
    """Dimensions in another order."""
    x, perm = site.tensor(0), site.node.attrs["perm"]
    steps = strides(x.shape)
    return _copy(site, _strided(site.output.shape, [steps[p] for p in perm], strides(site.output.shape), item(x.dtype)))


def slice_(site: Site) -> Lowered:
    """A range of each dimension; a negative step walks backwards."""
    x, attrs = site.tensor(0), site.node.attrs
    begin, by = attrs["begin"], attrs.get("strides") or (1,) * len(attrs["begin"])
    steps = strides(x.shape)
    offset = sum(b * s for b, s in zip(begin, steps, strict=True))
    walk = [s * n for s, n in zip(steps, by, strict=True)]
    return _copy(site, _strided(site.output.shape, walk, strides(site.output.shape), item(x.dtype), offset))


def tile(site: Site) -> Lowered:
    """Each dimension as (multiple, size), the multiple with step 0."""
    x, multiples = site.tensor(0), site.node.attrs["multiples"]
    shape = tuple(n for m, d in zip(multiples, x.shape, strict=True) for n in (m, d))
    walk = [n for s in strides(x.shape) for n in (0, s)]
    return _copy(site, _strided(shape, walk, strides(shape), item(x.dtype)))


def pad(site: Site) -> Lowered:
    """The output filled with the value, then the input copied in."""
    x, out, paddings = site.tensor(0), site.output, site.node.attrs["paddings"]
    steps = strides(out.shape)
    offset = sum(before * s for (before, _), s in zip(paddings, steps, strict=True))
    strided = _strided(x.shape, strides(x.shape), steps, item(x.dtype), 0, offset)
    if isinstance(strided, Refused):
        return strided
    constants: dict[str, np.ndarray] = {}
    value = _pad_value(x, site.node.attrs.get("value", 0)).tobytes()
    fields: Fields = (
        ("input", source(site, 0, constants)), ("output", Ref("tensor", out.name)), ("strided", strided), ("count", out.size),
        ("value", tuple(value)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_pad", "embarq_pad_params", fields, constants, sources=("move.c",))


def _pad_value(x: Tensor, value: float) -> np.ndarray:
    if x.dtype in ("int8", "int16") and x.quant is not None:
        return qm.quantise_array(np.array(value, np.float32), x.scale, x.zero_point, x.dtype)
    return np.array(value).astype(x.dtype)


def concat(site: Site) -> Lowered:
    """For every index before the axis, the bytes of each part in turn."""
    out, count = site.output, len(site.node.inputs)
    if site.node.attrs.get("activation", "none") != "none":
        return Refused("it has a fused activation", "write the activation as a node of its own")
    if count > PARTS:
        return Refused(f"it joins {count} tensors and the kernel takes {PARTS}", "join them in two steps")
    axis = site.node.attrs["axis"] % len(out.shape)
    constants: dict[str, np.ndarray] = {}
    parts = tuple((source(site, i, constants), math.prod(site.tensor(i).shape[axis:]) * item(out.dtype)) for i in range(count))
    fields: Fields = (("output", Ref("tensor", out.name)), ("outer", math.prod(out.shape[:axis])), ("count", count), ("parts", parts))
    return Call(site.node.name, "embarq_concat", "embarq_concat_params", fields, constants, sources=("move.c",))


def gather(site: Site) -> Lowered:
    """Values at indices along one axis."""
    x, indices, axis = site.tensor(0), site.tensor(1), site.node.attrs["axis"] % len(site.tensor(0).shape)
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", source(site, 0, constants)), ("indices", source(site, 1, constants)), ("output", Ref("tensor", site.output.name)),
        ("outer", math.prod(x.shape[:axis])), ("axis", x.shape[axis]), ("inner_bytes", math.prod(x.shape[axis + 1 :]) * item(x.dtype)),
        ("count", indices.size), ("index_words", item(indices.dtype) // 4),
    )  # fmt: skip
    return Call(site.node.name, "embarq_gather", "embarq_gather_params", fields, constants, sources=("move.c",))


def resize_nearest(site: Site) -> Lowered:
    """The input row and column of every output one, as tables."""
    (n, h, w, c), (_, oh, ow, _) = site.tensor(0).shape, site.output.shape
    modes = [bool(site.node.attrs.get(k, False)) for k in ("align_corners", "half_pixel_centers")]
    constants = {name: meaning._nearest_index(a, b, *modes).astype(np.int32) for name, a, b in (("rows", h, oh), ("columns", w, ow))}
    fields: Fields = (
        *ends(site), ("batch", n), ("in_h", h), ("in_w", w), ("out_h", oh), ("out_w", ow), ("pixel_bytes", c * item(site.output.dtype)),
        ("rows", Ref("const", "rows")), ("columns", Ref("const", "columns")),
    )  # fmt: skip
    return Call(site.node.name, "embarq_resize_nearest", "embarq_resize_nearest_params", fields, constants, sources=("move.c",))


def resize_bilinear(site: Site) -> Lowered:
    """The two input rows and columns of every output one, and how far between them it lies, as tables."""
    (n, h, w, c), (_, oh, ow, _) = site.tensor(0).shape, site.output.shape
    real = site.output.dtype == "float32"
    places = _real_places if real else _whole_places
    modes = [bool(site.node.attrs.get(k, False)) for k in ("align_corners", "half_pixel_centers")]
    constants: dict[str, np.ndarray] = {}
    for names, a, b in ((("top", "bottom", "down"), h, oh), (("left", "right", "across"), w, ow)):
        constants.update(zip(names, places(a, b, *modes), strict=True))
    kind = "f32" if real else "int"
    fields: Fields = (
        *ends(site), ("batch", n), ("in_h", h), ("in_w", w), ("out_h", oh), ("out_w", ow), ("channels", c),
        *(() if real else (("item", item(site.output.dtype)),)),
        *((name, Ref("const", name)) for name in ("top", "bottom", "left", "right", "down", "across")),
    )  # fmt: skip
    return Call(site.node.name, f"embarq_resize_bilinear_{kind}", f"embarq_resize_bilinear_{kind}_params", fields, constants,
                sources=("resize_bilinear.c",))  # fmt: skip


def _whole_places(source_size: int, target: int, align: bool, half: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = meaning._fixed_places(source_size, target, align, half)
    low = np.maximum(meaning._cut(place, 1024), 0)
    high = np.minimum(meaning._cut(place + 1023, 1024), source_size - 1)
    return low.astype(np.int32), high.astype(np.int32), (place - 1024 * low).astype(np.int32)


def _real_places(source_size: int, target: int, align: bool, half: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place, scale = np.arange(target, dtype=np.float32), meaning._scale(source_size, target, align)
    place = (place + np.float32(0.5)) * scale - np.float32(0.5) if half else place * scale
    low = np.maximum(np.floor(place), 0).astype(np.int32)
    high = np.minimum(np.ceil(place), source_size - 1).astype(np.int32)
    return low, high, (place - low.astype(np.float32)).astype(np.float32)
