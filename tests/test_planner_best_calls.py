"""Kernels that offer another call: the planner takes it where the arena gets smaller, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import sdk
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph, Quant
from sdk.planner.assess import Wish, assess, lower_all
from targets.device import load_device
from tests.data import shared

BOARD = load_device("stm32l4r5")
SCALE = Quant((0.05,), (-3,))


def chain(strides: Sequence[int]) -> Graph:
    """A 1x1 and a depthwise 3x3 convolution for each stride, on an image of 16x16x8."""
    b, rng = Builder("chain"), np.random.default_rng(2)
    x = b.input("x", (1, 16, 16, 8), "int8", SCALE)
    for stride in strides:
        size = b.shape(x)[1]
        w = b.const("w", rng.integers(-127, 128, (8, 1, 1, 8)).astype(np.int8), quant=Quant((0.004,) * 8, (0,) * 8, 0))
        x = b.op("conv2d", x, w, "", quant=SCALE, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, activation="none")
        w = b.const("w", rng.integers(-127, 128, (1, 3, 3, 8)).astype(np.int8), quant=Quant((0.004,) * 8, (0,) * 8, 3))
        padding = ((1, 1), (1, 1)) if stride == 1 else ((0, size % 2 + 1), (0, size % 2 + 1))
        x = b.op("depthwise_conv2d", x, w, "", quant=SCALE, stride=(stride, stride), padding=padding, dilation=(1, 1), multiplier=1, activation="none")
    return b.graph([x])


def arena(graph: Graph, with_others: bool) -> tuple[int, int]:
    """Bytes of the arena, and how many nodes got their other call."""
    calls = lower_all(graph, BOARD.isa)
    if not with_others:
        calls = {name: call and replace(call, other=None) for name, call in calls.items()}
    needs = assess(Wish(BOARD, graph, calls=calls))
    chosen = [dict(call.fields).get("kept_rows") for call in needs.calls.values()]
    return sum(needs.arrangement.layout.arena_bytes), sum(bool(rows) for rows in chosen)


def test_a_chain_of_depthwise_layers_stays_in_place() -> None:
    graph, image, columns, rows = chain([1, 1, 1, 1]), 16 * 16 * 8, 18 * 24, 2 * 16 * 8
    plain, none = arena(graph, False)
    better, taken = arena(graph, True)
    assert none == 0 and plain >= image + 4 * rows  # the image moves down by two rows each time
    assert 2 <= taken <= 4 and better == image + columns + rows


def test_layers_that_shrink_their_image_keep_no_rows() -> None:
    assert arena(chain([2, 2]), True) == (arena(chain([2, 2]), False)[0], 0)


def test_one_layer_alone_keeps_no_rows() -> None:
    """Two rows of distance or two rows of copies: the same memory, and copies take time."""
    assert arena(chain([1]), True)[1] == 0


def test_a_board_computes_the_same_with_rows_kept() -> None:
    plan = sdk.plan("stm32l4r5", chain([1, 1, 1]))
    assert any("a few rows before they are written over" in decision for decision in plan.decisions)
    assert any(dict(step.call.fields).get("kept_rows") for step in plan.steps if step.call is not None)
    with sdk.compile(plan).flash("emulator") as session:
        report = session.verify()
    assert report.ok and report.bytes_equal == report.bytes_compared > 0


@pytest.mark.parametrize(("model", "most"), [("kws01_dscnn", 8_808), ("vww01_mbv1_025", 38_424)])
def test_arenas_of_real_models(model: str, most: int) -> None:
    plan = sdk.plan("stm32l4r5", str(shared(f"mlperf_tiny/models/{model}_int8.tflite")))
    assert sum(plan.arena_bytes) <= most
