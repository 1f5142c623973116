"""The .onnx importer, operator by operator, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdk.graph.from_onnx import from_onnx
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from sdk.passes.pipeline import prepare
from tests.strategies import seeds

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.onnx_models import F32, model, node, one, rand, reference  # noqa: E402

I64 = np.int64


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def agrees(content: bytes, values: Sequence[np.ndarray], rtol: float = 1e-5, atol: float = 2e-6) -> Graph:
    """The graph as imported, and after every pass, gives ONNX Runtime's answer; returns the latter."""
    wanted = reference(content, values)
    graph = from_onnx(content)
    assert "opaque" not in ops(graph)
    for made in (graph, prepare(graph)):
        verify(made)
        found = run(made, list(values))
        for name, value in zip(made.outputs, wanted, strict=True):
            assert found[name].shape == value.shape and found[name].dtype == value.dtype
            np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol)
    return prepare(graph)


IMAGE, FLAT, SIGNAL = rand(2, 4, 7, 9), rand(3, 8), rand(2, 4, 11)
POSITIVE = np.abs(IMAGE) + F32(0.1)
W3, W3B = rand(6, 4, 3, 3, seed=1), rand(6, seed=2)


def case(op: str, inputs: Any, consts: Sequence[Any] = (), **attrs: Any) -> Any:
    """A named case: operator, what is fed, the initialisers behind it, attributes, opset."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    said = "-".join(f"{k}={v}".replace(" ", "") for k, v in attrs.items() if k != "value")
    return pytest.param(op, inputs, consts, attrs, id=f"{op}-{said}"[:70])


CASES = [
    # layers
    case("Conv", IMAGE, [W3, W3B]),
    case("Conv", IMAGE, [W3], pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", IMAGE, [W3], dilations=[2, 3], pads=[2, 3, 2, 3]),
    case("Conv", IMAGE, [W3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, [W3], auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", IMAGE, [W3], auto_pad="VALID"),
    case("Conv", IMAGE, [rand(4, 1, 5, 5), rand(4)], group=4, pads=[2, 2, 2, 2]),
    case("Conv", IMAGE, [rand(8, 1, 7, 7)], group=4, pads=[3, 3, 3, 3], strides=[2, 2]),
    case("Conv", IMAGE, [rand(6, 2, 3, 3)], group=2),
    case("Conv", SIGNAL, [rand(5, 4, 3), rand(5)], pads=[2, 0], strides=[2]),
    case("Conv", IMAGE, [W3], opset=7),
    case("ConvTranspose", IMAGE, [rand(4, 5, 3, 3), rand(5)], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", IMAGE, [rand(4, 5, 2, 2)], strides=[2, 2]),
    case("ConvTranspose", IMAGE, [rand(4, 2, 3, 3)], group=2, dilations=[2, 1]),
    case("ConvTranspose", IMAGE, [rand(4, 5, 3, 3)], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("ConvTranspose", SIGNAL, [rand(4, 5, 4)], strides=[2], pads=[1, 1]),
    case("Gemm", FLAT, [rand(8, 5), rand(5)]),
    case("Gemm", FLAT, [rand(5, 8), rand(1, 5)], transB=1, alpha=0.5, beta=2.0),
    case("Gemm", rand(8, 3), [rand(8, 5), rand(3, 5)], transA=1, opset=9),
    case("Gemm", (FLAT, rand(8, 5)), [rand(5)], opset=9),
    case("MatMul", rand(2, 3, 8), [rand(8, 5)]),
    case("MatMul", (rand(2, 3, 4, 8), rand(2, 1, 8, 5))),
    case("MatMul", rand(8), [rand(8, 5)]),
    case("MatMul", FLAT, [rand(8)]),
    case("FusedMatMul", (rand(2, 3, 8), rand(2, 5, 8)), domain="com.microsoft", transB=1, alpha=0.25),
    case("BatchNormalization", IMAGE, [rand(4), rand(4), rand(4), np.abs(rand(4)) + F32(0.5)], epsilon=1e-3),
    case("BatchNormalization", rand(3, 4), [rand(4), rand(4), rand(4), np.abs(rand(4)) + F32(0.5)], opset=7),
    case("InstanceNormalization", IMAGE, [rand(4), rand(4)], epsilon=1e-3),
    case("InstanceNormalization", SIGNAL, [rand(4), rand(4)]),
    case("GroupNormalization", IMAGE, [rand(4), rand(4)], num_groups=2, opset=21),
    case("GroupNormalization", IMAGE, [rand(2), rand(2)], num_groups=2, opset=18),
    case("LayerNormalization", rand(2, 5, 8), [rand(8), rand(8)], epsilon=1e-4),
    case("LayerNormalization", rand(2, 5, 8), [rand(5, 8)], axis=1),
    case("LpNormalization", FLAT, axis=1, p=2),
    # pools
    case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER", opset=8),
    case("MaxPool", SIGNAL, kernel_shape=[3], strides=[2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER", opset=7),
    case("AveragePool", IMAGE, kernel_shape=[2, 4], strides=[2, 3], ceil_mode=1),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    # resizing
    *(case("Resize", IMAGE, [None, np.array([1, 1, 2, 2], F32)], mode="linear", coordinate_transformation_mode=t)
      for t in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")),
    *(case("Resize", IMAGE, [None, np.array([1, 1, 2, 3], F32)], mode="nearest", coordinate_transformation_mode=t, nearest_mode=r)
      for t in ("half_pixel", "asymmetric", "align_corners") for r in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
    case("Resize", IMAGE, [None, None, np.array([2, 4, 5, 4], I64)], mode="nearest"),
    case("Resize", IMAGE, [None, None, np.array([2, 4, 5, 4], I64)], mode="linear"),
    case("Resize", IMAGE, [None, None, np.array([3, 18], I64)], mode="linear", axes=[2, 3]),
    case("Resize", IMAGE, [np.array([1, 1, 2, 2], F32)], mode="nearest", opset=10),
    case("Upsample", IMAGE, [np.array([1, 1, 2, 3], F32)], mode="nearest", opset=9),
    case("Upsample", IMAGE, mode="linear", scales=[1.0, 1.0, 2.0, 2.0], opset=7),
    # arithmetic
    *(case(op, (IMAGE, rand(4, 1, 9, seed=3))) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(op, IMAGE, [rand(1, 4, 1, 1, seed=3)]) for op in ("Add", "Sub", "Mul", "Div")),
    case("Sum", (IMAGE, rand(9), rand(7, 1))),
    case("Mean", (IMAGE, rand(9), rand(7, 1))),
    *(case(op, IMAGE) for op in ("Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Neg", "HardSwish", "Softplus", "Softsign", "Mish", "Selu", "Reciprocal")),
    *(case(op, POSITIVE) for op in ("Log", "Sqrt")),
    *(case("Pow", POSITIVE, [F32(p)]) for p in (1, 2, 3, 0.5, -0.5, -1)),
    case("Pow", IMAGE, [np.array([2], I64)], opset=12),
    case("Clip", IMAGE * 5, [F32(0), F32(6)]),
    case("Clip", IMAGE, [None, F32(0.5)]),
    case("Clip", IMAGE, [F32(-0.5)]),
    case("Clip", IMAGE * 5, min=-1.5, max=3.0, opset=7),
    case("Clip", IMAGE * 5, min=0.0, opset=7),
    case("LeakyRelu", IMAGE, alpha=0.2),
    case("LeakyRelu", IMAGE),
    case("PRelu", IMAGE, [rand(4, 1, 1)]),
    case("PRelu", FLAT, [rand(8)], opset=7),
    case("Elu", IMAGE),
    case("Elu", IMAGE, alpha=0.7),
    case("Celu", IMAGE, alpha=1.5),
    case("HardSigmoid", IMAGE * 4),
    case("HardSigmoid", IMAGE * 4, alpha=1 / 6),
    case("Gelu", IMAGE, opset=20),
    case("Gelu", IMAGE, opset=20, approximate="tanh"),
    case("Gelu", IMAGE, domain="com.microsoft"),
    case("FastGelu", IMAGE, [rand(9)], domain="com.microsoft"),
    case("BiasGelu", IMAGE, [rand(9)], domain="com.microsoft"),
    case("Softmax", IMAGE),
    case("Softmax", IMAGE, axis=1),
    case("Softmax", IMAGE, axis=1, opset=11),
    case("Softmax", FLAT, opset=7),
    case("Softmax", IMAGE, opset=12),
    case("LogSoftmax", IMAGE, axis=-1),
    *(case(op, IMAGE, [np.array([2, -1], I64)]) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")),
    case("ReduceMean", IMAGE, axes=[1, 2], keepdims=0, opset=13),
    case("ReduceSum", IMAGE, axes=[-1], keepdims=0, opset=11),
    case("ReduceSum", IMAGE, [np.array([], I64)], noop_with_empty_axes=1),
    case("ReduceMax", IMAGE, keepdims=0),
    case("ReduceLogSum", POSITIVE, [np.array([1], I64)]),
    case("ArgMax", IMAGE, axis=1),
    case("ArgMin", IMAGE, axis=-1, keepdims=0),
    # moves
    case("Identity", IMAGE),
    case("Dropout", IMAGE, opset=10, ratio=0.5),
    case("Dropout", IMAGE),
    case("Reshape", IMAGE, [np.array([0, -1, 9], I64)]),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=-1),
    case("Flatten", IMAGE, axis=0),
    case("Transpose", IMAGE),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Squeeze", rand(1, 3, 1, 5), [np.array([0, -2], I64)]),
    case("Squeeze", rand(1, 3, 1, 5), opset=11),
    case("Squeeze", rand(1, 3, 1, 5), axes=[2], opset=11),
    case("Unsqueeze", FLAT, [np.array([0, -1], I64)]),
    case("Unsqueeze", FLAT, axes=[1, 3], opset=11),
    case("Slice", IMAGE, [np.array([1, -3], I64), np.array([4, 2**63 - 1], I64), np.array([1, 2], I64), np.array([2, 1], I64)]),
    case("Slice", IMAGE, [np.array([-1], I64), np.array([-(2**63)], I64), np.array([3], I64), np.array([-2], I64)]),
    case("Slice", IMAGE, starts=[0, 1], ends=[1, -1], axes=[0, 2], opset=7),
    case("Split", IMAGE, [np.array([1, 4, 2], I64)], axis=2, outputs=3),
    case("Split", IMAGE, axis=2, outputs=3, num_outputs=3),
    case("Split", IMAGE, axis=1, split=[3, 1], outputs=2, opset=11),
    case("Concat", (IMAGE, rand(2, 1, 7, 9)), [rand(2, 3, 7, 9)], axis=1),
    case("Gather", IMAGE, [np.array([[2, -1], [0, 0]], I64)], axis=2),
    case("Gather", IMAGE, [np.array(-1, I64)], axis=1),
    case("Expand", rand(3, 1), [np.array([2, 1, 4], I64)]),
    case("Tile", FLAT, [np.array([2, 3], I64)]),
    case("Pad", IMAGE, [np.array([0, 0, 1, 2, 0, 0, 3, 0], I64), F32(1.5)]),
    case("Pad", IMAGE, [np.array([0, 0, -1, 2, 0, 0, 3, -2], I64)]),
    case("Pad", IMAGE, [np.array([1, 2, 3, 0], I64), None, np.array([2, 3], I64)]),
    *(case("Pad", IMAGE, [np.array([0, 0, 1, 2, 0, 0, 3, 1], I64)], mode=m) for m in ("reflect", "edge")),
    case("Pad", IMAGE, pads=[0, 1, 1, 2, 0, 0, 3, 0], value=-2.0, opset=7),
    case("DepthToSpace", rand(2, 8, 3, 5), blocksize=2),
    case("DepthToSpace", rand(2, 8, 3, 5), blocksize=2, mode="CRD"),
    case("SpaceToDepth", rand(2, 3, 4, 6), blocksize=2),
    case("Cast", IMAGE, to=7),
    case("Where", IMAGE, [rand(7, 9) > 0, rand(1, 1, 7, 1)], at=1),
    case("Where", IMAGE, [rand(7, 9) > 0, F32(-np.inf)], at=1),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "consts", "attrs"), CASES)
def test_operator(op: str, inputs: tuple[np.ndarray, ...], consts: Sequence[Any], attrs: dict[str, Any]) -> None:
    attrs = dict(attrs)
    if attrs.pop("at", 0):  # Where: the condition stands first
        kept, condition, other = "x0", *consts
        content = model([node("Where", ["c", kept, "o"], ["y0"])], {kept: inputs[0].shape}, {"c": condition, "o": other}, outputs=["y0"])
        if np.isneginf(other).all():  # a mask: what is masked counts as exp() sees it
            content = model([node("Where", ["c", kept, "o"], ["m"]), node("Softmax", ["m"], ["y0"])], {kept: inputs[0].shape}, {"c": condition, "o": other},
                            outputs=["y0"])  # fmt: skip
    else:
        content = one(op, inputs, consts, **attrs)
    agrees(content, inputs)


# ---- laws over random geometry -----------------------------------------------------------------------------------


def _spans(size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], pads: Sequence[int]) -> list[int]:
    return [size[i] + pads[i] + pads[2 + i] - (kernel[i] - 1) * dilation[i] - 1 for i in (0, 1)]


small = st.integers(1, 3)


@settings(max_examples=60)
@given(seeds, st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(small, small),
       st.tuples(st.integers(1, 2), st.integers(1, 2)), st.lists(st.integers(0, 3), min_size=4, max_size=4), small, small, small)  # fmt: skip
def test_any_convolution(seed: int, size: Any, kernel: Any, stride: Any, dilation: Any, pads: Any, groups: int, inner: int, outer: int) -> None:
    assume(min(_spans(size, kernel, dilation, pads)) >= 0)
    x, w = rand(1, groups * inner, *size, seed=seed), rand(groups * outer, inner, *kernel, seed=seed + 1)
    agrees(one("Conv", [x], [w, rand(len(w))], strides=stride, dilations=dilation, pads=pads, group=groups), [x], atol=2e-5)


@settings(max_examples=50)
@given(seeds, st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(small, small),
       st.tuples(st.integers(1, 2), st.integers(1, 2)), st.lists(st.integers(0, 2), min_size=4, max_size=4), small,
       st.tuples(st.integers(0, 2), st.integers(0, 2)))  # fmt: skip
def test_any_transposed_convolution(seed: int, size: Any, kernel: Any, stride: Any, dilation: Any, pads: Any, groups: int, extra: Any) -> None:
    assume(all(e < s for e, s in zip(extra, stride, strict=True)))
    assume(all((size[i] - 1) * stride[i] + extra[i] + (kernel[i] - 1) * dilation[i] + 1 - pads[i] - pads[2 + i] >= 1 for i in (0, 1)))
    x, w = rand(1, groups * 2, *size, seed=seed), rand(groups * 2, 3, *kernel, seed=seed + 1)
    content = one("ConvTranspose", [x], [w], strides=stride, dilations=dilation, pads=pads, group=groups, output_padding=extra)
    agrees(content, [x], atol=2e-5)


@settings(max_examples=60)
@given(seeds, st.sampled_from(["MaxPool", "AveragePool"]), st.tuples(st.integers(2, 9), st.integers(2, 9)), st.tuples(st.integers(1, 4), st.integers(1, 4)),
       st.tuples(small, small), st.lists(st.integers(0, 2), min_size=4, max_size=4), st.booleans(), st.booleans())  # fmt: skip
def test_any_pool(seed: int, op: str, size: Any, kernel: Any, stride: Any, pads: Any, ceil: bool, include: bool) -> None:
    assume(min(_spans(size, kernel, (1, 1), pads)) >= 0 and all(p < kernel[i % 2] for i, p in enumerate(pads)))
    more: Any = {"count_include_pad": int(include)} if op == "AveragePool" else {}
    x = rand(1, 3, *size, seed=seed)
    content = one(op, [x], kernel_shape=kernel, strides=stride, pads=pads, ceil_mode=int(ceil), **more)
    if "opaque" in ops(from_onnx(content)):
        assert ceil and include, "only windows that hang over counted padding have no op"
        return
    agrees(content, [x])


@settings(max_examples=80)
@given(seeds, st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(1, 13), st.integers(1, 13)), st.sampled_from(["nearest", "linear"]),
       st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]),
       st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]))  # fmt: skip
def test_any_resize_by_size(seed: int, size: Any, target: Any, mode: str, transform: str, rounding: str) -> None:
    x = rand(1, 2, *size, seed=seed)
    sizes = np.array([1, 2, *target], I64)
    content = one("Resize", [x], [None, None, sizes], mode=mode, coordinate_transformation_mode=transform, nearest_mode=rounding, opset=19)
    made = from_onnx(content)
    if mode == "nearest" or transform != "pytorch_half_pixel" or min(target) > 1:
        assert "opaque" not in ops(made)
    if "opaque" not in ops(made):
        agrees(content, [x], atol=1e-5)


@settings(max_examples=50)
@given(seeds, st.data())
def test_any_slice(seed: int, data: st.DataObject) -> None:
    x = rand(3, 5, 4, seed=seed)
    axes = data.draw(st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda a: a % 3))
    draw = [[data.draw(st.integers(-7, 7)) for _ in axes] for _ in range(2)]
    steps = [data.draw(st.integers(-3, 3).filter(bool)) for _ in axes]
    content = one("Slice", [x], [np.array(v, I64) for v in (*draw, axes, steps)])
    if 0 in reference(content, [x])[0].shape:
        return
    agrees(content, [x])


# ---- groups of operators that are one op -------------------------------------------------------------------------


def chain(*steps: tuple[str, Sequence[str]], **weights: Any) -> bytes:
    """Nodes a, b, c... of (operator, inputs), the last called y, on x [2, 5, 8]."""
    letters = [*"abcdefghijkl"[: len(steps) - 1], "y"]
    attrs: dict[str, Any] = {"ReduceMean": {"axes": [-1]}}
    nodes = [node(op, names, [out], **attrs.get(op, {})) for (op, names), out in zip(steps, letters, strict=True)]
    return model(nodes, {"x": (2, 5, 8)}, {k: np.asarray(v, F32) if not isinstance(v, np.ndarray) else v for k, v in weights.items()}, opset=17)


PATTERNS = {
    "gelu as torch writes it": ("gelu", chain(("Div", "xr"), ("Erf", "a"), ("Add", "bo"), ("Mul", "xc"), ("Mul", "dp"), r=2**0.5, o=1, p=0.5)),
    "gelu, half first": ("gelu", chain(("Mul", "xp"), ("Mul", "xs"), ("Erf", "b"), ("Add", "oc"), ("Mul", "ad"), s=0.5**0.5, o=1, p=0.5)),
    "gelu, half inside": ("gelu", chain(("Mul", "xs"), ("Erf", "a"), ("Add", "bo"), ("Mul", "cp"), ("Mul", "dx"), s=0.5**0.5, o=1, p=0.5)),
    "silu": ("silu", chain(("Sigmoid", "x"), ("Mul", "xa"))),
    "hard_swish of a gate": ("hard_swish", chain(("Add", "xt"), ("Clip", "azs"), ("Div", "bs"), ("Mul", "xc"), t=3, z=0, s=6)),
    "hard_swish, divided last": ("hard_swish", chain(("Add", "xt"), ("Clip", "azs"), ("Mul", "xb"), ("Div", "cs"), t=3, z=0, s=6)),
    "hard_sigmoid": ("hard_sigmoid", chain(("Add", "xt"), ("Clip", "azs"), ("Mul", "bu"), t=3, z=0, s=6, u=1 / 6)),
    "layer_norm": ("layer_norm", chain(("ReduceMean", "x"), ("Sub", "xa"), ("Mul", "bb"), ("ReduceMean", "c"), ("Add", "dq"), ("Sqrt", "e"), ("Div", "bf"),
                                       ("Mul", "gv"), ("Add", "hw"), q=1e-5, v=rand(8), w=rand(8, seed=1))),
    "layer_norm by pow": ("layer_norm", chain(("ReduceMean", "x"), ("Sub", "xa"), ("Pow", "bt"), ("ReduceMean", "c"), ("Add", "dq"), ("Sqrt", "e"),
                                              ("Div", "bf"), q=1e-5, t=2)),
    "layer_norm, centred twice": ("layer_norm", chain(("ReduceMean", "x"), ("Sub", "xa"), ("Sub", "xa"), ("Mul", "cc"), ("ReduceMean", "d"), ("Add", "eq"),
                                                      ("Sqrt", "f"), ("Reciprocal", "g"), ("Mul", "bh"), ("Mul", "vi"), q=1e-3, v=rand(8))),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_group_of_operators(name: str) -> None:
    op, content = PATTERNS[name]
    assert ops(from_onnx(content)) == [op]
    agrees(content, [rand(2, 5, 8) * 3], rtol=1e-4, atol=1e-5)


NEAR_MISSES = {
    "gelu of another width": chain(("Div", "xr"), ("Erf", "a"), ("Add", "bo"), ("Mul", "xc"), ("Mul", "dp"), r=2.0, o=1, p=0.5),
    "gelu not halved": chain(("Div", "xr"), ("Erf", "a"), ("Add", "bo"), ("Mul", "xc"), ("Mul", "dp"), r=2**0.5, o=1, p=0.7),
    "hard_swish by 5": chain(("Add", "xt"), ("Clip", "azs"), ("Div", "bv"), ("Mul", "xc"), t=3, z=0, s=6, v=5),
    "gate of another x": chain(("Neg", "x"), ("Sigmoid", "a"), ("Mul", "xb")),
    "mean square": chain(("ReduceMean", "x"), ("Sub", "xa"), ("Mul", "xx"), ("ReduceMean", "c"), ("Add", "dq"), ("Sqrt", "e"), ("Div", "bf"), q=1e-5),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_only_looks_like_a_group_is_left(name: str) -> None:
    found = ops(from_onnx(NEAR_MISSES[name]))
    assert len(found) > 1 and not {"gelu", "hard_swish", "silu", "layer_norm"} & set(found)
    if "opaque" not in found:
        agrees(NEAR_MISSES[name], [rand(2, 5, 8)])
