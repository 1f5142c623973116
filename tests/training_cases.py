"""Cases for the kernels of a training step: every op, in shapes that reach every branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS
from tests.kernel_harness import Case

#: kernel, stride, padding at the start, dilation
WINDOWS = ((1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 2, 0, 2), (2, 1, 1, 2), (5, 1, 2, 1), (1, 2, 0, 1))
CORE = frozenset({"armv7e-m", "dsp", "fpu-sp"})


def window(kernel: int, stride: int, start: int, dilation: int, **more: Any) -> dict[str, Any]:
    """Attributes of a window; padded a little more at the end than at the start."""
    pad = (start, start + 1 if kernel > 1 else 0)
    return {"stride": (stride, stride), "dilation": (dilation, dilation), "padding": (pad, pad), **more}


class Maker:
    """Makes cases with values that can be made again. An input is an array (an activation or a variable), a Tensor or None."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def draw(self, *shape: int) -> np.ndarray:
        """float32 around 0."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def weight(self, shape: tuple[int, ...], axis: int | None, const: bool = True) -> tuple[Tensor, np.ndarray]:
        """int8 weights with a scale a channel, or one for all."""
        count = shape[axis] if axis is not None else 1
        scale = tuple(float(np.float32(s)) for s in self.rng.uniform(0.002, 0.02, count))
        data = self.rng.integers(-127, 128, shape).astype(np.int8)
        return Tensor("w", shape, "int8", Quant(scale, (0,) * count, axis), data if const else None), data

    def int8(self, shape: tuple[int, ...], axis: int | None = 0) -> Tensor:
        """A constant int8 weight."""
        return self.weight(shape, axis)[0]

    def const(self, *shape: int) -> Tensor:
        """A constant float32 weight."""
        return Tensor("w", shape, "float32", None, self.draw(*shape))

    def case(self, op: str, inputs: Sequence[np.ndarray | Tensor | tuple[Tensor, np.ndarray] | None], overlap: int | None = None, **attrs: Any) -> Case:
        """A case of one node. A pair is a tensor in RAM and its value."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, np.ndarray] = {}
        names = []
        for i, given in enumerate(inputs):
            name = f"i{i}" if given is not None else ""
            names.append(name)
            if given is None:
                continue
            like, value = given if isinstance(given, tuple) else (given, given) if isinstance(given, np.ndarray) else (given, None)
            quant = like.quant if isinstance(like, Tensor) else None
            tensors[name] = Tensor(name, like.shape, str(like.dtype), quant, None if value is not None else like.data)
            if value is not None:
                values[name] = value
        results = OPS[op].infer(Node("n", op, names, (), attrs), tensors)
        outs = {f"o{k}": Tensor(f"o{k}", shape, dtype) for k, (shape, dtype) in enumerate(results)}
        node = Node("n", op, names, tuple(outs), attrs)
        written = tuple(outs) or OPS[op].updated(node)
        return Case(Graph("case", tuple(values), written, {**tensors, **outs}, (node,)), values, CORE, overlap)


HYPER = np.array([0.05, 0.9, 0, 0], np.float32)
ONE = np.array([41], np.int32)


def cases(make: Maker) -> list[Case]:
    """All of them."""
    return [*convolutions(make), *depthwises(make), *denses(make), *heads(make), *others(make)]


def convolutions(make: Maker) -> Iterator[Case]:
    """Forward, backward and update of every window; odd numbers of channels; with and without an adapter."""
    for k, (kernel, stride, start, dilation) in enumerate(WINDOWS):
        attrs, c, o, r = window(kernel, stride, start, dilation), (5, 8, 6)[k % 3], (4, 7, 9)[k % 3], (3, 4)[k % 2]
        n, h, w = 1 + k % 2, 7, 6
        x, z, b = make.draw(n, h, w, c), make.draw(n, h, w, r), make.draw(o)
        frozen, p = make.int8((o, kernel, kernel, c), (0, None)[k % 2]), make.draw(o, kernel, kernel, r)
        forward = make.case("train_conv2d", (x, frozen, b, z, p), **attrs, activation=("none", "relu", "relu6")[k % 3])
        yield forward
        yield make.case("train_conv2d", (x, make.const(o, kernel, kernel, c)), **attrs, activation=("relu6", "none", "relu")[k % 3])
        dy = make.draw(*forward.graph["o0"].shape)
        yield make.case("train_conv2d_grad", (dy, frozen, make.draw(*x.shape)), overlap=2, **attrs, size=(h, w))
        yield make.case("train_conv2d_grad", (dy, p), **attrs, size=(h, w))
        yield make.case("train_conv2d_update", (z, dy, p, HYPER), **attrs)
        yield make.case("train_conv2d_update", (z, dy, p, HYPER, make.draw(*p.shape)), **attrs)
        basis = make.int8((r, 1, 1, c)) if k % 2 else make.draw(r, c)
        yield make.case("train_conv2d_update", (z, dy, make.draw(o, kernel, kernel, c), HYPER, None, basis), **attrs)
    x, w = make.draw(1, 2, 5, 150), make.int8((6, 1, 1, 150))  # more channels than are gathered at once
    yield make.case("train_conv2d", (x, w, None), **window(1, 1, 0, 1), activation="relu")
    yield make.case("train_conv2d_grad", (make.draw(1, 2, 5, 150), make.int8((150, 1, 1, 6))), **window(1, 1, 0, 1), size=(2, 5))
    yield make.case("train_conv2d", (x, make.weight((6, 1, 1, 150), 0, const=False)), **window(1, 1, 0, 1), activation="none")
    learning = make.weight((6, 1, 1, 150), 0, const=False)
    yield make.case("train_conv2d_update", (x, make.draw(1, 2, 5, 6), learning, HYPER, None, None, ONE), **window(1, 1, 0, 1))


def depthwises(make: Maker) -> Iterator[Case]:
    """Every window; int8, constant and learning weights."""
    for k, (kernel, stride, start, dilation) in enumerate(WINDOWS):
        attrs, n, h, w, c = window(kernel, stride, start, dilation), 1 + k % 2, 7, 6, (5, 8)[k % 2]
        x, b = make.draw(n, h, w, c), make.draw(c)
        weight = make.int8((1, kernel, kernel, c), 3) if k % 2 else make.draw(1, kernel, kernel, c)
        forward = make.case("train_depthwise", (x, weight, b), **attrs, activation=("none", "relu", "relu6")[k % 3])
        yield forward
        dy = make.draw(*forward.graph["o0"].shape)
        yield make.case("train_depthwise_grad", (dy, weight, make.draw(*x.shape)), overlap=2, **attrs, size=(h, w))
        yield make.case("train_depthwise_grad", (dy, weight), **attrs, size=(h, w))
        learning = make.draw(1, kernel, kernel, c)
        yield make.case("train_depthwise_update", (x, dy, learning, HYPER, learning if k % 2 else None), **attrs)
    x, dy = make.draw(1, 4, 4, 8), make.draw(1, 4, 4, 8)
    wide = make.int8((1, 3, 3, 77), 3)  # more channels than are summed at once
    yield make.case("train_depthwise", (make.draw(1, 4, 3, 77), wide, make.draw(77)), **window(3, 1, 1, 1), activation="relu6")
    yield make.case("train_depthwise_grad", (make.draw(1, 3, 2, 77), wide), **window(3, 2, 1, 1), size=(4, 3))
    yield make.case("train_depthwise_update", (make.draw(1, 4, 3, 77), make.draw(1, 3, 2, 77), make.draw(1, 3, 3, 77), HYPER), **window(3, 2, 1, 1))
    same = {"stride": (1, 1), "dilation": (1, 1), "padding": ((1, 1), (1, 1))}
    yield make.case("train_depthwise_update", (x, dy, make.weight((1, 3, 3, 8), 3, const=False), HYPER, None, ONE), **same)
    yield make.case("train_depthwise_grad", (dy, make.int8((1, 3, 3, 8), 3), make.draw(1, 4, 4, 8)), overlap=2, **same, size=(4, 4))


def denses(make: Maker) -> Iterator[Case]:
    """One row and several; depths that are no multiple of four."""
    for rows, depth, channels, rank in ((1, 13, 6, 3), (1, 32, 10, 0), (11, 9, 7, 4), (4, 16, 3, 0)):
        x, z, b = make.draw(rows, depth), make.draw(rows, rank), make.draw(channels)
        w, p = make.int8((channels, depth)), make.draw(channels, rank)
        yield make.case("train_dense", (x, w, b, z, p) if rank else (x, w, b), activation="relu" if rank else "none")
        yield make.case("train_dense", (x, make.draw(channels, depth), b), activation="none")
        dy = make.draw(rows, channels)
        yield make.case("train_dense_grad", (dy, w, make.draw(rows, depth)), overlap=2)
        yield make.case("train_dense_grad", (dy, make.draw(channels, depth)))
        yield make.case("train_dense_update", (x, dy, make.draw(channels, depth), HYPER))
        yield make.case("train_dense_update", (x, dy, make.draw(channels, depth), HYPER, make.draw(channels, depth)))
        yield make.case("train_dense_update", (x, dy, make.weight((channels, depth), 0, const=False), HYPER, None, None, ONE))
        if rank:
            yield make.case("train_dense_update", (z, dy, make.draw(channels, depth), HYPER, None, make.draw(rank, depth)))
        yield make.case("bias_update", (dy, b, HYPER, make.draw(channels)))


def heads(make: Maker) -> Iterator[Case]:
    """The fused head on fewer, as many and more pixels than nine; odd numbers of channels."""
    for n, h, w, c, o, r, activation in ((1, 3, 3, 8, 11, 0, "relu6"), (2, 2, 2, 5, 4, 3, "relu"), (1, 5, 4, 6, 7, 2, "relu6"), (1, 3, 3, 4, 150, 0, "relu")):
        x, z, b, weight, p = 2 * make.draw(n, h, w, c), make.draw(n, h, w, r), make.draw(o), make.int8((o, 1, 1, c)), make.draw(o, 1, 1, r)
        yield make.case("train_head", (x, weight, b, z, p) if r else (x, weight, b), activation=activation)
        dy, mask = make.draw(n, o), make.rng.integers(0, 256, -(-n * o * h * w // 8)).astype(np.uint8)
        yield make.case("train_head_grad", (dy, mask, weight, make.draw(*x.shape)), overlap=3, size=(h, w))
        yield make.case("train_head_grad", (dy, mask, make.draw(o, 1, 1, c)), size=(h, w))
        yield make.case("train_head_update", (x, dy, mask, make.draw(o, 1, 1, c), HYPER))
        yield make.case("head_bias_update", (dy, mask, b, HYPER), size=(h, w))
        if r:
            yield make.case("train_head_update", (z, dy, mask, make.draw(o, 1, 1, c), HYPER, make.draw(o, 1, 1, c), make.int8((r, c))))


def others(make: Maker) -> Iterator[Case]:
    """Masks, means, mode products, the loss."""
    y, dy = np.clip(5 * make.draw(1, 3, 3, 5), 0, 6), make.draw(1, 3, 3, 5)
    for activation in ("relu", "relu6"):
        yield make.case("pack_mask", (y,), activation=activation)
    mask = make.rng.integers(0, 256, 6).astype(np.uint8)
    yield make.case("mask_grad", (dy, mask), overlap=0)
    yield make.case("mean_grad", (make.draw(2, 5),), size=(3, 2))
    yield make.case("mode_product", (make.draw(1, 6, 5, 4), make.const(3, 6)), axis=1)
    yield make.case("mode_product", (make.draw(1, 6, 3, 4), make.draw(3, 5)), axis=2, transpose=True)
    for rows, classes in ((1, 10), (3, 7)):
        yield make.case("softmax_cross_entropy", (4 * make.draw(rows, classes), make.rng.integers(0, classes, rows).astype(np.int32)))
    yield make.case("softmax_cross_entropy", (np.array([[0, 20, 3]], np.float32), np.array([1], np.int32)))  # sure of it: the rest is small
