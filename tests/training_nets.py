"""Small int8 classifiers for tests of training on a microcontroller, one for every kind of layer. No file, no training."""

from __future__ import annotations

from functools import cache

import numpy as np

from sdk.graph.builder import Builder
from sdk.graph.ir import Graph
from sdk.passes.quantise import QuantOptions, quantise

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))
CLASSES = 5


class Maker:
    """A float net being built; every layer draws its weights from one generator."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int = 0) -> None:
        self.b, self.rng = Builder(name), np.random.default_rng(seed)
        self.x = self.b.input("x", (1, *shape), "float32")
        self.count = 0

    def _weights(self, *shape: int, fan: int) -> tuple[str, str]:
        self.count += 1
        stem = f"l{self.count}"
        w = (self.rng.standard_normal(shape) * np.sqrt(2.0 / fan)).astype(np.float32)
        outs = shape[-1] if shape[0] == 1 and len(shape) == 4 else shape[0]
        bias = (self.rng.standard_normal(outs) * 0.1).astype(np.float32)
        return self.b.const(f"{stem}.weight", w, f"{stem}.weight"), self.b.const(f"{stem}.bias", bias, f"{stem}.bias")

    def conv(self, x: str, out: int, kernel: int = 1, stride: int = 1, activation: str = "relu6") -> str:
        depth = self.b.shape(x)[-1]
        w, b = self._weights(out, kernel, kernel, depth, fan=kernel * kernel * depth)
        pad = ((kernel // 2,) * 2,) * 2
        return self.b.op("conv2d", x, w, b, stride=(stride, stride), dilation=(1, 1), padding=pad, groups=1, activation=activation)

    def depthwise(self, x: str, stride: int = 1, activation: str = "relu6") -> str:
        depth = self.b.shape(x)[-1]
        w, b = self._weights(1, 3, 3, depth, fan=9)
        return self.b.op("depthwise_conv2d", x, w, b, stride=(stride, stride), dilation=(1, 1), padding=ONE, multiplier=1, activation=activation)

    def add(self, a: str, b: str) -> str:
        return self.b.op("add", a, b, activation="none")

    def classify(self, x: str, hidden: int = 0) -> Graph:
        """Mean over the image, dense layers, softmax."""
        if len(self.b.shape(x)) == 4:
            x = self.b.op("mean", x, axes=(1, 2), keep_dims=True)
            x = self.b.op("reshape", x, shape=(1, self.b.shape(x)[-1]))
        for outs, activation in (*(((hidden, "relu"),) if hidden else ()), (CLASSES, "none")):
            w, b = self._weights(outs, self.b.shape(x)[-1], fan=self.b.shape(x)[-1])
            x = self.b.op("dense", x, w, b, activation=activation)
        return self.b.graph([self.b.op("softmax", x, axis=-1, beta=1.0)])


def dense_net() -> Graph:
    m = Maker("dense_net", (24,))
    return m.classify(m.x, hidden=16)


def point_net() -> Graph:
    """1x1 layers, the last fused with the mean."""
    m = Maker("point_net", (6, 6, 3))
    return m.classify(m.conv(m.conv(m.conv(m.x, 8, 3), 12, activation="relu"), 20))


def depthwise_net() -> Graph:
    """Depthwise layers of stride 1 and 2 between 1x1 layers."""
    m = Maker("depthwise_net", (9, 9, 3))
    x = m.conv(m.x, 8, 3)
    x = m.conv(m.depthwise(x), 12, activation="none")
    return m.classify(m.conv(m.depthwise(x, 2, "relu"), 16, activation="none"))


def window_net() -> Graph:
    """3x3 layers of stride 1 and 2, and an average pool."""
    m = Maker("window_net", (12, 12, 2))
    x = m.conv(m.conv(m.x, 6, 3, 2), 8, 3, activation="relu")
    x = m.b.op("avg_pool2d", x, kernel=(2, 2), stride=(2, 2), padding=NONE, activation="none", count_include_pad=False)
    return m.classify(m.conv(x, 10, 3, activation="none"))


def residual_net() -> Graph:
    """An inverted residual block, and one whose shortcut starts in front of the trained part."""
    m = Maker("residual_net", (8, 8, 3))
    x = m.conv(m.x, 8, 3, 2)
    for _ in range(2):
        x = m.add(x, m.conv(m.depthwise(m.conv(x, 24)), 8, activation="none"))
    return m.classify(m.conv(x, 32))


NETS = {"dense": dense_net, "point": point_net, "depthwise": depthwise_net, "window": window_net, "residual": residual_net}


def samples(graph: Graph, count: int, seed: int = 1) -> np.ndarray:
    """Random inputs [count, ...] with some structure: each sample its own mean and slope."""
    rng = np.random.default_rng(seed)
    shape = graph[graph.inputs[0]].shape[1:]
    base = rng.standard_normal((count, *([1] * (len(shape) - 1)), shape[-1]))
    return (0.6 * rng.standard_normal((count, *shape)) + base).astype(np.float32)


@cache
def int8_net(name: str) -> Graph:
    """The net of that name, quantised."""
    graph = NETS[name]()
    return quantise(graph, samples(graph, 32), QuantOptions())
