"""The ops of a training step mean what torch's autograd computes in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sdk.errors import DataError, ModelError
from sdk.graph import interpreter
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS
from sdk.graph.ops.training_math import noise
from sdk.graph.text import to_text
from sdk.graph.verify import verify

WINDOWS = ((1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 2, 0, 2), (2, 1, 1, 2))  # kernel, stride, padding at the start, dilation


def net(op: str, inputs: Sequence[np.ndarray | Tensor | None], variables: Sequence[int] = (), **attrs: Any) -> tuple[Graph, dict[str, np.ndarray]]:
    """One node whose inputs are activations, except the variables; and the activations' values."""
    tensors: dict[str, Tensor] = {}
    names, values = [], {}
    for i, given in enumerate(inputs):
        if given is None:
            names.append("")
            continue
        data = given.data if isinstance(given, Tensor) else given
        assert data is not None
        fixed = isinstance(given, Tensor) or i in variables
        quant = given.quant if isinstance(given, Tensor) else None
        tensors[f"i{i}"] = Tensor(f"i{i}", data.shape, str(data.dtype), quant, data if fixed else None, None, i in variables)
        names.append(f"i{i}")
        if not fixed:
            values[f"i{i}"] = data
    node = Node("n", op, names, (), attrs)
    results = OPS[op].infer(node, tensors)
    outs = {f"o{k}": Tensor(f"o{k}", shape, dtype) for k, (shape, dtype) in enumerate(results)}
    node = Node("n", op, names, tuple(outs), attrs)
    graph = Graph("net", tuple(values), tuple(outs) or (names[0],), {**tensors, **outs}, (node,))
    verify(graph)
    return graph, values


def outputs(op: str, *inputs: np.ndarray | Tensor | None, **attrs: Any) -> tuple[np.ndarray, ...]:
    """What one node gives."""
    graph, values = net(op, inputs, **attrs)
    return tuple(interpreter.run(graph, values).values())


def updated(op: str, inputs: Sequence[np.ndarray | Tensor | None], variables: Sequence[int], **attrs: Any) -> dict[str, np.ndarray]:
    """Variables after one node."""
    graph, values = net(op, inputs, variables, **attrs)
    return interpreter.step(graph, values)[1]


def window(kernel: int, stride: int, start: int, dilation: int, activation: str | None = None) -> dict[str, Any]:
    """Attributes of a window; padded a little more at the end than at the start."""
    pad = (start, start + 1 if kernel > 1 else 0)
    attrs: dict[str, Any] = {"stride": (stride, stride), "dilation": (dilation, dilation), "padding": (pad, pad)}
    return {**attrs, "activation": activation} if activation else attrs


def quantised(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Tensor:
    """An int8 weight with a scale a channel."""
    scale = tuple(float(np.float32(s)) for s in rng.uniform(0.002, 0.02, shape[axis]))
    return Tensor("w", shape, "int8", Quant(scale, (0,) * shape[axis], axis), rng.integers(-127, 128, shape).astype(np.int8))


def real(w: Tensor | np.ndarray) -> np.ndarray:
    """float64 values of a weight."""
    if isinstance(w, np.ndarray):
        return w.astype(np.float64)
    assert w.quant is not None and w.data is not None and w.quant.axis is not None
    shape = [1] * len(w.shape)
    shape[w.quant.axis] = -1
    return w.data * np.asarray(w.quant.scale).reshape(shape)


def torch_conv(x: Any, w: Any, attrs: Mapping[str, Any], groups: int = 1) -> Any:
    """NHWC x, OHWI w."""
    import torch.nn.functional as F

    (top, bottom), (left, right) = attrs["padding"]
    x = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    return F.conv2d(x, w.permute(0, 3, 1, 2), None, attrs["stride"], 0, attrs["dilation"], groups).permute(0, 2, 3, 1)


def leaf(x: np.ndarray) -> Any:
    """A float64 torch tensor that gets a gradient."""
    import torch

    return torch.tensor(np.asarray(x, np.float64), requires_grad=True)


def close(got: np.ndarray, want: Any) -> None:
    """Equal to float32's rounding."""
    want = want.detach().numpy() if hasattr(want, "detach") else want
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6 * float(np.abs(want).max(initial=1e-30)))


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """float32 values around 0."""
    return rng.standard_normal(shape).astype(np.float32)


HYPER = np.array([0.05, 0.9, 0, 0], np.float32)


@pytest.mark.parametrize("form", WINDOWS)
def test_convolution_with_an_adapter_forward_and_backward(form: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(sum(form))
    attrs, k = window(*form), form[0]
    x, b, p, z = draw(rng, 2, 7, 6, 5), draw(rng, 4), draw(rng, 4, k, k, 3), draw(rng, 2, 7, 6, 3)
    w = quantised(rng, (4, k, k, 5), 0)
    tx, tw, tp, tz, tb = leaf(x), leaf(real(w)), leaf(p), leaf(z), leaf(b)
    want = torch_conv(tx, tw, attrs) + torch_conv(tz, tp, attrs) + tb
    close(outputs("train_conv2d", x, w, b, z, p, **attrs, activation="none")[0], want)
    close(outputs("train_conv2d", x, w, b, z, p, **attrs, activation="relu6")[0], want.clamp(0, 6))
    dy = draw(rng, *want.shape)
    want.backward(leaf(dy))
    add = draw(rng, *x.shape)
    close(outputs("train_conv2d_grad", dy, w, add, **attrs, size=(7, 6))[0], tx.grad.numpy() + add)
    close(outputs("train_conv2d_grad", dy, p, **attrs, size=(7, 6))[0], tz.grad)
    close(updated("train_conv2d_update", (z, dy, p, HYPER), (2, 3), **attrs)["i2"], p - np.float64(HYPER[0]) * tp.grad.numpy())
    v = draw(rng, *p.shape)
    after = updated("train_conv2d_update", (z, dy, p, HYPER, v), (2, 3, 4), **attrs)
    speed = np.float64(HYPER[1]) * v + tp.grad.numpy()
    close(after["i4"], speed)
    close(after["i2"], p - np.float64(HYPER[0]) * speed)
    close(updated("bias_update", (dy, b, HYPER), (1, 2))["i1"], b - np.float64(HYPER[0]) * tb.grad.numpy())


@pytest.mark.parametrize("form", WINDOWS)
def test_depthwise_forward_and_backward(form: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(sum(form))
    attrs, k = window(*form), form[0]
    x, w = draw(rng, 1, 7, 6, 5), quantised(rng, (1, k, k, 5), 3)
    tx, tw = leaf(x), leaf(real(w))
    want = torch_conv(tx, tw.permute(3, 1, 2, 0), attrs, groups=5)
    close(outputs("train_depthwise", x, w, **attrs, activation="none")[0], want)
    dy = draw(rng, *want.shape)
    want.backward(leaf(dy))
    close(outputs("train_depthwise_grad", dy, w, **attrs, size=(7, 6))[0], tx.grad)
    single = real(w).astype(np.float32)
    close(updated("train_depthwise_update", (x, dy, single, HYPER), (2, 3), **attrs)["i2"], single - np.float64(HYPER[0]) * tw.grad.numpy())


def test_dense_forward_and_backward() -> None:
    rng = np.random.default_rng(3)
    x, w, b, p, z = draw(rng, 2, 3, 5), quantised(rng, (4, 5), 0), draw(rng, 4), draw(rng, 4, 2), draw(rng, 2, 3, 2)
    tx, tw, tp, tz = leaf(x), leaf(real(w)), leaf(p), leaf(z)
    want = tx @ tw.T + tz @ tp.T + leaf(b)
    close(outputs("train_dense", x, w, b, z, p, activation="relu")[0], want.relu())
    dy = draw(rng, *want.shape)
    want.backward(leaf(dy))
    close(outputs("train_dense_grad", dy, w)[0], tx.grad)
    close(updated("train_dense_update", (z, dy, p, HYPER), (2, 3))["i2"], p - np.float64(HYPER[0]) * tp.grad.numpy())
    u = draw(rng, 5, 7)  # x as the coefficients of 7 inputs
    wide = draw(rng, 4, 7)
    close(updated("train_dense_update", (x, dy, wide, HYPER, None, u), (2, 3))["i2"], wide - np.float64(HYPER[0]) * (tw.grad.numpy() @ u))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_fused_head_forward_and_backward(activation: str) -> None:
    rng = np.random.default_rng(4)
    x, w, b = 2 * draw(rng, 1, 3, 3, 5), 3 * draw(rng, 6, 1, 1, 5), draw(rng, 6)
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    y = tx @ tw[:, 0, 0].T + tb
    want = (y.clamp(0, 6) if activation == "relu6" else y.relu()).mean((1, 2))
    pooled, mask = outputs("train_head", x, w, b, activation=activation)
    close(pooled, want)
    dy = draw(rng, *want.shape)
    want.backward(leaf(dy))
    close(outputs("train_head_grad", dy, mask, w, size=(3, 3))[0], tx.grad)
    close(updated("train_head_update", (x, dy, mask, w, HYPER), (3, 4))["i3"], w - np.float64(HYPER[0]) * tw.grad.numpy())
    close(updated("head_bias_update", (dy, mask, b, HYPER), (2, 3), size=(3, 3))["i2"], b - np.float64(HYPER[0]) * tb.grad.numpy())


def test_masks_mean_and_mode_product() -> None:
    rng = np.random.default_rng(5)
    y, dy = np.clip(5 * draw(rng, 1, 3, 3, 5), 0, 6), draw(rng, 1, 3, 3, 5)
    for activation, open_ in (("relu", y > 0), ("relu6", (y > 0) & (y < 6))):
        (mask,) = outputs("pack_mask", y, activation=activation)
        assert mask.shape == (6,)
        np.testing.assert_array_equal(outputs("mask_grad", dy, mask)[0], dy * open_)
    close(outputs("mean_grad", dy[:, 0, 0], size=(2, 3))[0], np.broadcast_to(dy[:, :1, :1].astype(np.float64) / 6, (1, 2, 3, 5)))
    u = draw(rng, 2, 3)
    (core,) = outputs("mode_product", y, u, axis=1)
    close(core, np.einsum("nhwc,kh->nkwc", y, u))
    close(outputs("mode_product", core, u, axis=1, transpose=True)[0], np.einsum("nkwc,kh->nhwc", core, u))


def test_softmax_cross_entropy() -> None:
    import torch

    rng = np.random.default_rng(6)
    x, label = 4 * draw(rng, 3, 7), np.array([2, 0, 6], np.int32)
    tx = leaf(x)
    want = torch.nn.functional.cross_entropy(tx, torch.tensor(label, dtype=torch.int64))
    want.backward()
    loss, gradient = outputs("softmax_cross_entropy", x, label)
    close(loss, want.detach().numpy()[None])
    close(gradient, tx.grad)


def test_int8_weights_take_small_steps_on_average() -> None:
    """A step of 3 % of a unit moves one weight in 33; exact in the mean, the same every time."""
    rng = np.random.default_rng(7)
    w = quantised(rng, (50, 1, 1, 80), 0)
    assert w.quant is not None and w.data is not None
    w = Tensor("w", w.shape, "int8", Quant((0.01,) * 50, (0,) * 50, 0), (w.data // 2).astype(np.int8))
    x, dy, hyper = np.full((1, 1, 1, 80), 0.03, np.float32), np.ones((1, 1, 1, 50), np.float32), np.array([0.01, 0, 0, 0], np.float32)
    inputs = (x, dy, w, hyper, None, None, np.array([5], np.int32))
    after = updated("train_conv2d_update", inputs, (2, 3, 6), **window(1, 1, 0, 1))
    assert w.data is not None
    moved = w.data.astype(int) - after["i2"]
    assert set(np.unique(moved)) == {0, 1} and after["i6"][0] == 6
    assert abs(moved.mean() - 0.03) < 0.008
    np.testing.assert_array_equal(updated("train_conv2d_update", inputs, (2, 3, 6), **window(1, 1, 0, 1))["i2"], after["i2"])
    assert abs(noise(1, 1000).mean() - 0.5) < 0.03 and (noise(1, 9) != noise(2, 9)).any()


def test_one_step_after_the_other() -> None:
    x, b = np.ones((1, 3), np.float32), np.zeros(3, np.float32)
    graph, values = net("bias_update", (x, b, HYPER), (1, 2))
    assert "n: bias_update(i0, i1 float32[3] variable, i2 float32[4] variable) -> changes i1" in to_text(graph)
    _, state = interpreter.step(graph, values)
    _, state = interpreter.step(graph, values, state)
    close(state["i1"], np.full(3, -2 * np.float64(HYPER[0])))
    with pytest.raises(DataError, match="no variable 'i0'"):
        interpreter.step(graph, values, {"i0": x})
    with pytest.raises(DataError, match="one sample"):
        interpreter.step(graph, {"i0": np.ones((2, 3), np.float32)})


def test_what_does_not_fit_is_told() -> None:
    rng = np.random.default_rng(8)
    x, w, attrs = draw(rng, 1, 3, 3, 5), draw(rng, 4, 1, 1, 5), window(1, 1, 0, 1)
    wrong: list[tuple[str, str, tuple[np.ndarray | Tensor | None, ...], tuple[int, ...], dict[str, Any]]] = [
        ("must be \\[O, KH, KW, C\\]", "train_conv2d", (x, draw(rng, 4, 1, 1, 6)), (), attrs),
        ("only one of an adapter's", "train_conv2d", (x, w, None, x), (), attrs),
        ("activation is 'gelu'", "train_conv2d", (x, w), (), {**attrs, "activation": "gelu"}),
        ("give a basis u", "train_conv2d_update", (x, draw(rng, 1, 3, 3, 4), draw(rng, 4, 1, 1, 6), HYPER), (2, 3), attrs),
        ("not a variable", "train_conv2d_update", (x, draw(rng, 1, 3, 3, 4), w, HYPER), (3,), attrs),
        ("no counter", "train_conv2d_update", (x, draw(rng, 1, 3, 3, 4), quantised(rng, (4, 1, 1, 5), 0), HYPER), (2, 3), attrs),
        ("must be int32", "softmax_cross_entropy", (x[0, 0], np.zeros(3, np.int64)), (), {}),
        ("zero point, or scales", "train_conv2d", (x, quantised(rng, (4, 1, 1, 5), 3)), (), attrs),
    ]
    for told, op, inputs, variables, more in wrong:
        with pytest.raises(ModelError, match=told):
            net(op, inputs, variables, **more)


def test_no_order_moves_a_reader_behind_the_update() -> None:
    """Two readers of a bias around its update: whatever order has the lowest peak keeps them there."""
    from sdk.planner.problem import default_calls, from_graph
    from sdk.planner.schedule import best_order

    f = lambda name, shape, **more: Tensor(name, shape, "float32", **more)  # noqa: E731
    state = {"b": f("b", (64,), variable=True), "hyper": f("hyper", (4,), variable=True)}
    tensors = {**state, **{n: f(n, (4, 64)) for n in ("x", "before", "after")}}
    nodes = (
        Node("early", "add", ("x", "b"), ("before",)),
        Node("update", "bias_update", ("x", "b", "hyper"), ()),
        Node("late", "add", ("x", "b"), ("after",)),
    )
    graph = Graph("two", ("x",), ("before", "after"), tensors, nodes)
    verify(graph)
    problem = from_graph(graph, default_calls(graph))
    assert problem.steps[1].writes == ("b",)
    assert best_order(problem).order == (0, 1, 2)
    x = np.ones((4, 64), np.float32)
    outputs_, state_after = interpreter.step(graph, {"x": x}, {"hyper": np.array([0.25, 0, 0, 0], np.float32)})
    assert (outputs_["before"] == 1).all() and (outputs_["after"] == 0).all() and (state_after["b"] == -1).all()


def test_multiply_accumulates_are_counted() -> None:
    """9 pixels from 56 to 336 channels and an adapter of rank 8, forward and back; nothing for what multiplies nothing."""
    from sdk.planner.latency import node_macs

    rng, attrs = np.random.default_rng(9), window(1, 1, 0, 1)
    x, dy, z, w, p = draw(rng, 1, 3, 3, 56), draw(rng, 1, 3, 3, 336), draw(rng, 1, 3, 3, 8), draw(rng, 336, 1, 1, 56), draw(rng, 336, 1, 1, 8)
    d, dw, mask = draw(rng, 1, 336), draw(rng, 1, 3, 3, 336), np.zeros(378, np.uint8)
    same = {"stride": (1, 1), "dilation": (1, 1), "padding": ((1, 1), (1, 1))}
    counted: list[tuple[int, str, tuple[np.ndarray | None, ...], tuple[int, ...], dict[str, Any]]] = [
        (9 * 336 * (56 + 8), "train_conv2d", (x, w, None, z, p), (), attrs),
        (9 * 336 * 56, "train_conv2d_grad", (dy, w), (), {**attrs, "size": (3, 3)}),
        (9 * 336 * 8, "train_conv2d_update", (z, dy, p, HYPER), (2, 3), attrs),
        (9 * 336 * 8 + 336 * 8 * 56, "train_conv2d_update", (z, dy, w, HYPER, None, draw(rng, 8, 56)), (2, 3), attrs),
        (9 * 336 * 56, "train_head", (x, w), (), {"activation": "relu"}),
        (9 * 336 * 56, "train_head_grad", (d, mask, w), (), {"size": (3, 3)}),
        (9 * 336 * 8, "train_head_update", (z, d, mask, p, HYPER), (3, 4), {}),
        (9 * 336 * 9, "train_depthwise", (dy, dw), (), same),
        (9 * 336 * 9, "train_depthwise_grad", (dy, dw), (), {**same, "size": (3, 3)}),
        (9 * 336 * 9, "train_depthwise_update", (dy, dy, dw, HYPER), (2, 3), same),
        (336 * 56, "train_dense", (d[:, :56], w[:, 0, 0]), (), {}),
        (336 * 56, "train_dense_grad", (d, w[:, 0, 0]), (), {}),
        (336 * 56, "train_dense_update", (d[:, :56], d, w[:, 0, 0], HYPER), (2, 3), {}),
        (0, "pack_mask", (dy,), (), {"activation": "relu"}),
        (0, "bias_update", (d, d[0], HYPER), (1, 2), {}),
    ]
    for macs, op, inputs, variables, more in counted:
        graph, _ = net(op, inputs, variables, **more)
        assert node_macs(graph, graph.nodes[0]) == macs, op
