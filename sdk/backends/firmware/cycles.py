"""Cycles of the kernels that multiply, from a board that counts them: representative layers run on the emulated core, and for
each C function the cycles a MAC and a value written that fit what was counted best.

The emulated core counts instructions exactly and gives each its class's cycles: no caches, no wait states. An estimate made
from these figures therefore predicts what `profile` says on an emulated board.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdk.backends.firmware.build import emit
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.planner.plan import make_plan
from targets.device import Device

#: Layers that small nets are made of. conv2d, depthwise and TRAINED: (height, width, channels in, channels out, kernel, stride); dense: (in, out).
CONVS = ((16, 16, 3, 8, 3, 1), (12, 12, 16, 16, 3, 1), (14, 6, 8, 32, 3, 2), (16, 16, 8, 16, 1, 1), (12, 10, 32, 32, 1, 1), (10, 5, 64, 64, 1, 1))
DEPTHWISES = ((16, 16, 8, 8, 3, 1), (12, 5, 64, 64, 3, 1), (16, 16, 16, 16, 3, 2), (6, 6, 128, 128, 3, 1))
#: The same, smaller, for layers that learn: they need their inputs, outputs, gradients and weights in RAM.
TRAINED = ((3, 3, 48, 80, 1, 1), (6, 6, 16, 16, 1, 1), (4, 4, 8, 16, 3, 1))
TRAINED_DEPTHWISES = ((3, 3, 96, 96, 3, 1), (6, 6, 32, 32, 3, 1), (8, 8, 16, 16, 3, 2))
TRAINED_DENSES = ((64, 12), (160, 10), (64, 32))
DENSES = ((64, 12), (256, 10), (640, 128), (128, 128))
#: activation -> scale of inputs and outputs: kernels round another way where nothing below the zero point comes out.
SCALES = {"none": Quant((0.05,), (3,)), "relu": Quant((0.05,), (-128,))}
WEIGHT = Quant((0.002,), (0,))  # any: only its place counts
FIGURES = ("cycles_per_mac", "cycles_per_element")


def measure_cycles(device: Device, compiler: str) -> dict[str, dict[str, float]]:
    """C function -> its figures. Raises an EmbarqError where the board cannot be emulated."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for graph in (layers("int8"), layers("float32"), training_layers()):
        for function, row in _counted(device, compiler, graph):
            rows.setdefault(function, []).append(row)
    return {function: dict(zip(FIGURES, fitted(found), strict=True)) for function, found in rows.items() if len(found) >= len(FIGURES)}


def layers(dtype: str) -> Graph:
    """Every representative layer with and without an activation, each on an input of its own."""
    b, rng = Builder("layers"), np.random.default_rng(1)
    return b.graph([out for activation, quant in SCALES.items() for out in _layers(b, rng, quant if dtype == "int8" else None, activation)])


def _layers(b: Builder, rng: np.random.Generator, quant: Quant | None, activation: str) -> list[str]:
    outs = []
    for height, width, channels, out, kernel, stride in CONVS:
        x, w = _input(b, (1, height, width, channels), quant), _weights(b, rng, (out, kernel, kernel, channels), 0, quant)
        outs.append(b.op("conv2d", x, w, "", quant=quant, groups=1, **_window(kernel, stride, activation)))
    for height, width, channels, _, kernel, stride in DEPTHWISES:
        x, w = _input(b, (1, height, width, channels), quant), _weights(b, rng, (1, kernel, kernel, channels), 3, quant)
        outs.append(b.op("depthwise_conv2d", x, w, "", quant=quant, multiplier=1, **_window(kernel, stride, activation)))
    for size, out in DENSES:
        x, w = _input(b, (1, size), quant), _weights(b, rng, (out, size), 0, quant)
        outs.append(b.op("dense", x, w, "", quant=quant, activation=activation))
    return outs


def training_layers() -> Graph:
    """Layers that learn and are learnt through, forward, backward and updated: frozen weights int8, learning ones float32."""
    b, rng = Builder("training"), np.random.default_rng(3)
    hyper = _state(b, (4,))
    outs = []
    for height, width, channels, out, kernel, stride in TRAINED:
        form, size = _window(kernel, stride), (height, width)
        x, w = _input(b, (1, *size, channels), None), _weights(b, rng, (out, kernel, kernel, channels), 0, WEIGHT)
        y = b.op("train_conv2d", x, w, "", **form, activation="relu6")
        outs += [y, b.op("train_conv2d_grad", y, w, **form, size=size)]
        b.nodes.append(Node(b.unique("update"), "train_conv2d_update", (x, y, _state(b, (out, kernel, kernel, channels)), hyper), (), form))
    for height, width, channels, _, kernel, stride in TRAINED_DEPTHWISES:
        form, size = _window(kernel, stride), (height, width)
        x, w = _input(b, (1, *size, channels), None), _weights(b, rng, (1, kernel, kernel, channels), 3, WEIGHT)
        y = b.op("train_depthwise", x, w, "", **form, activation="relu6")
        outs += [y, b.op("train_depthwise_grad", y, w, **form, size=size)]
        b.nodes.append(Node(b.unique("update"), "train_depthwise_update", (x, y, _state(b, (1, kernel, kernel, channels)), hyper), (), form))
    for depth, out in TRAINED_DENSES:
        x, w = _input(b, (1, depth), None), _weights(b, rng, (out, depth), 0, None)
        y = b.op("train_dense", x, w, "", activation="none")
        outs += [y, b.op("train_dense_grad", y, w)]
        b.nodes.append(Node(b.unique("update"), "train_dense_update", (x, y, _state(b, (out, depth)), hyper), ()))
    return b.graph(outs)


def _state(b: Builder, shape: tuple[int, ...]) -> str:
    name = b.unique("state")
    b.tensors[name] = Tensor(name, shape, "float32", variable=True)
    return name


def _input(b: Builder, shape: tuple[int, ...], quant: Quant | None) -> str:
    return b.input("x", shape, "int8" if quant else "float32", quant)


def _weights(b: Builder, rng: np.random.Generator, shape: tuple[int, ...], axis: int, quant: Quant | None) -> str:
    values = rng.integers(-127, 128, shape)
    if quant is None:
        return b.const("w", (values / 127).astype(np.float32))
    return b.const("w", values.astype(np.int8), quant=Quant((0.002,) * shape[axis], (0,) * shape[axis], axis))


def _window(kernel: int, stride: int, activation: str = "") -> dict[str, Any]:
    pad = kernel // 2
    form: dict[str, Any] = {"stride": (stride, stride), "dilation": (1, 1), "padding": ((pad, pad), (pad, pad))}
    return {**form, "activation": activation} if activation else form


def _counted(device: Device, compiler: str, graph: Graph) -> list[tuple[str, tuple[float, ...]]]:
    """(function, (MACs, values written, cycles)) of every step of one inference; nothing where the graph does not fit the board."""
    from firmware_bridge.emulator import EmulatedBoard, EmulatorLink
    from firmware_bridge.session import BoardSession

    plan = make_plan(device, graph, compiler=compiler, mends=False)
    if not plan.fits:
        return []
    board = EmulatedBoard(device, emit(plan).files["firmware/model.elf"])
    rng = np.random.default_rng(2)
    values = [rng.integers(-128, 128, graph[n].size_bytes).astype(np.int8) if graph[n].quant else rng.random(graph[n].size, np.float32) for n in graph.inputs]
    with BoardSession(EmulatorLink(board)) as session:
        session.write_inputs(*(v.tobytes() for v in values))
        board.clear_counts()
        session.profile(*(v.tobytes() for v in values))
    sizes = [plan.graph[step.output].size for step in plan.steps]
    return [(s.function, (s.macs, size, cost.cycles)) for s, size, cost in zip(plan.steps, sizes, board.steps(), strict=True)]


def fitted(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The cycles a MAC and a value with the smallest relative errors over (MACs, values, cycles) rows, neither below 0."""
    table = np.array([(macs, values) for macs, values, _ in rows]) / np.array([[cycles] for *_, cycles in rows])
    both = np.linalg.lstsq(table, np.ones(len(rows)), rcond=None)[0]
    if (both < 0).any():  # a straight line through nothing but the one that explains more
        alone = [np.linalg.lstsq(table[:, [i]], np.ones(len(rows)), rcond=None) for i in (0, 1)]
        better = min((0, 1), key=lambda i: float(alone[i][1][0]))
        both = np.zeros(2)
        both[better] = alone[better][0][0]
    return tuple(round(float(f), 3) for f in both)


def with_cycles(entries: Mapping[str, Mapping[str, Any]], cycles: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """The entries of a core, with cycles in those that have some."""
    return {function: {**entry, **cycles.get(function, {})} for function, entry in entries.items()}
