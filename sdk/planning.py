"""`plan`: a device and a model in, a `Plan` out. Chooses the passes; `sdk.planner` does the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.model import Model, load
from targets.device import Device, load_device

if TYPE_CHECKING:
    from sdk.passes.quantise import QuantOptions
    from sdk.planner.plan import Budget, Plan

PRECISIONS = ("auto", "int8", "float32")
Progress = Callable[[str], None]


def plan_device(device: Device | str) -> Budget:
    """What `device` has to spend, before any model: memories, what is reserved, flash, speed, each with its source."""
    from sdk.planner.plan import budget

    return budget(load_device(device))


def plan_model(
    device: Device | str,
    work: Any,
    *,
    calibration: Any = None,
    precision: str = "auto",
    quant: QuantOptions | None = None,
    keep_input: bool = False,
    in_place: bool = True,
    vectors: Sequence[Any] = (),
    compiler: str = "zig",
    progress: Progress | None = None,
) -> Plan:
    """Decide everything about running `work` on `device`.

    calibration: real inputs for quantising a float model: an array [n, ...], a folder, a `.npy`/`.npz` file or a generator.
    precision: "int8" (needs `calibration` unless the model is quantised already), "float32", or "auto": int8 where possible.
    quant: how to quantise (range choice, equalisation, layers to keep at higher precision).
    keep_input: leave the input's bytes untouched by the inference, at the price of their space.
    in_place: let an output overlap its dying input wherever the kernel allows it.
    vectors: inputs to verify with; random ones by default, the first calibration samples where there are some.
    compiler: "zig" (reproducible everywhere) or "gcc" (arm-none-eabi-gcc on PATH).
    Raises `UnsupportedOp` for an op the device cannot compute, `UsageError` and `DataError` for bad options and data.
    """
    board = load_device(device)
    model = load(work)
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    graph, decisions, samples = _prepare(model, calibration, precision, quant, progress)
    from sdk.planner.plan import make_plan

    return make_plan(
        board,
        graph,
        name=model.name,
        keep_input=keep_input,
        in_place=in_place,
        compiler=compiler,
        decisions=decisions,
        vectors=_vectors(graph, vectors or samples),
    )


def _prepare(
    model: Model, calibration: Any, precision: str, quant: QuantOptions | None, progress: Progress | None
) -> tuple[Graph, list[str], list[Any]]:
    """The graph after its passes, what was decided, and up to two calibration samples to verify with."""
    from sdk.passes.pipeline import prepare

    if model.is_quantised:
        if precision == "float32":
            raise UsageError(f"{model.name} is quantised and was asked for in float32; load the float model instead")
        ready = prepare(model.graph)
        return ready, ["The model came quantised; its integers are kept as they are.", *_removed(model.graph, ready)], []
    if precision == "float32" or (precision == "auto" and calibration is None):
        why = "as asked" if precision == "float32" else "because no calibration data was given; give some to have it in int8"
        return prepare(model.graph), [f"The model stays in float32, {why}."], []
    if calibration is None:
        raise UsageError(f"{model.name} is a float model: int8 needs calibration data; give calibration=, a few hundred real inputs")
    return _quantise(model, calibration, quant, progress)


def _quantise(model: Model, calibration: Any, quant: QuantOptions | None, progress: Progress | None) -> tuple[Graph, list[str], list[Any]]:
    from sdk.passes.pipeline import prepare
    from sdk.passes.quantise import QuantOptions, quantise

    options = quant or QuantOptions()
    if progress:
        progress("calibrating")
    graph = quantise(prepare(model.graph), calibration, options)
    ready = prepare(graph)
    return ready, [f"Quantised to int8 here: {options}.", *_removed(graph, ready)], []


def _removed(before: Graph, after: Graph) -> list[str]:
    """The sentence about channels that were taken out."""
    from sdk.passes.constant_channels import layer_channels

    gone, all_ = layer_channels(before) - layer_channels(after), layer_channels(before)
    sentence = f"{gone:,} of {all_:,} layer channels are one constant for every input, or unread, and were taken out; every other byte is unchanged."
    return [sentence] if gone else []


def _vectors(graph: Graph, samples: Sequence[Any]) -> list[tuple[np.ndarray, ...]]:
    """Samples as the planned graph's inputs: a float sample for an integer input is quantised."""
    from sdk.golden import check_input

    rows = []
    for sample in samples:
        parts = sample if isinstance(sample, (tuple, list)) else (sample,)
        if len(parts) != len(graph.inputs):
            raise UsageError(f"a vector has {len(parts)} inputs and the model takes {len(graph.inputs)}; give one array per input")
        rows.append(tuple(check_input(graph[name], part) for name, part in zip(graph.inputs, parts, strict=True)))
    return rows


