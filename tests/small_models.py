"""Small int8 models made here, for tests of the way from a model to a board. No file, no data, no training."""

from __future__ import annotations

from functools import cache

import numpy as np

from sdk.graph.builder import Builder
from sdk.graph.ir import Graph
from sdk.passes.quantise import QuantOptions, quantise


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def float_cnn(seed: int = 0, size: int = 12, channels: int = 8) -> Graph:
    """conv, depthwise, 1x1, residual add, pool, dense, softmax on [1, size, size, 3]."""
    rng = np.random.default_rng(seed)
    b = Builder("small_cnn")
    same = ((1, 1), (1, 1))
    none = ((0, 0), (0, 0))
    x = b.input("x", (1, size, size, 3), "float32")

    def conv(value: str, out: int, kernel: int, padding: object, activation: str) -> str:
        w = b.const("w", _weights(rng, out, kernel, kernel, b.shape(value)[-1]))
        bias = b.const("b", rng.standard_normal(out).astype(np.float32) * 0.1)
        return b.op("conv2d", value, w, bias, stride=(1, 1), dilation=(1, 1), padding=padding, groups=1, activation=activation)

    stem = conv(x, channels, 3, same, "relu")
    w = b.const("w", _weights(rng, 1, 3, 3, channels) * 3)
    bias = b.const("b", rng.standard_normal(channels).astype(np.float32) * 0.1)
    deep = b.op("depthwise_conv2d", stem, w, bias, stride=(1, 1), dilation=(1, 1), padding=same, multiplier=1, activation="relu6")
    point = conv(deep, channels, 1, none, "none")
    total = b.op("add", stem, point, activation="none")
    half = size // 2
    pooled = b.op("max_pool2d", total, kernel=(2, 2), stride=(2, 2), padding=none, activation="none")
    mean = b.op("avg_pool2d", pooled, kernel=(half, half), stride=(1, 1), padding=none, activation="none", count_include_pad=False)
    flat = b.op("reshape", mean, shape=(1, channels))
    logits = b.op("dense", flat, b.const("w", _weights(rng, 10, channels) * 4), b.const("b", np.zeros(10, np.float32)), activation="none")
    return b.graph([b.op("softmax", logits, axis=-1, beta=1.0)])


def samples(graph: Graph, count: int = 16, seed: int = 1) -> np.ndarray:
    """Normal random inputs [count, ...] of the graph's first input."""
    shape = graph[graph.inputs[0]].shape[1:]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@cache
def int8_cnn(seed: int = 0, size: int = 12, channels: int = 8) -> Graph:
    """`float_cnn` in int8."""
    graph = float_cnn(seed, size, channels)
    return quantise(graph, samples(graph), QuantOptions())
