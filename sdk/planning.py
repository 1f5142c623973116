"""`plan`: a device and a model in, a `Plan` out. Chooses the passes; `sdk.planner` does the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.model import Model, load
from sdk.planner.training.spec import Training
from targets.device import Device, load_device

if TYPE_CHECKING:
    from sdk.data import Calibration
    from sdk.passes.quant_report import QuantReport
    from sdk.passes.quantise import QuantOptions
    from sdk.planner.linux_records import LinuxPlan
    from sdk.planner.plan import Budget, Plan
    from sdk.planner.training.plan import TrainingPlan

PRECISIONS = ("auto", "int8", "float32")
LINUX_OPTIONS = ("backend", "threads", "evaluation", "accuracy_drop_points", "target")
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
    quant: QuantOptions | Mapping[str, Any] | None = None,
    quant_report: bool = False,
    keep_input: bool = False,
    in_place: bool = True,
    vectors: Sequence[Any] = (),
    compiler: str = "zig",
    training: Training | None = None,
    progress: Progress | None = None,
    **linux: Any,
) -> Plan | LinuxPlan | TrainingPlan:
    """Decide everything about running `work` on `device`.

    calibration: real inputs for quantising a float model: an array [n, ...], a folder, a `.npy`/`.npz` file or a generator.
    precision: "int8" (needs `calibration` unless the model is quantised already), "float32", or "auto": int8 where possible.
    quant: how to quantise: `sdk.passes.quantise.QuantOptions`, or its fields as a dict, {"range": "mse", "int16": ["conv1"]}.
    quant_report: say what quantising cost, layer by layer, in `plan.quant_report` (some seconds on a large net); for a Linux device
    `compile` says it, for the recipe it keeps (`artifact.layer_errors`).
    keep_input: leave the input's bytes untouched by the inference, at the price of their space.
    in_place: let an output overlap its dying input wherever the kernel allows it.
    vectors: inputs to verify with; by default random ones and, where there are some, two calibration samples.
    compiler: "zig" (reproducible everywhere) or "gcc" (arm-none-eabi-gcc on PATH).
    training: the model is to learn on the device: which layers, how, within what memory (`sdk.Training`); what is left open is chosen.
    `calibration` is then (inputs [n, ...], labels [n]).
    linux: for Linux devices only. backend: "auto", "onnx", "litert", "executorch", "tensorrt" or "native". threads: a number, or several to
    try (one and all cores by default). evaluation: (inputs [n, ...], labels [n]) to judge accuracy by. accuracy_drop_points: how
    much of it a faster recipe may cost (1.0). target: where candidates are measured, "local" or "ssh://user@host".
    Raises `UnsupportedOp` for an op the device cannot compute, `UsageError` and `DataError` for bad options and data.
    """
    board = load_device(device)
    if training is not None:
        given = {"keep_input": keep_input, "in_place": not in_place, "vectors": len(vectors) > 0, "quant_report": quant_report}
        for_boards: dict[str, Any] = {"quant": quant, "precision": precision != "auto" and precision, "compiler": compiler != "zig" and compiler}
        return _plan_training(board, work, training, calibration, {**given, **for_boards, **linux}, progress)
    model = load(work)
    if board.kind == "linux":
        from sdk.linux import plan_linux

        _refuse_options(linux, LINUX_OPTIONS, board)
        boards_only = {"quant": quant, "keep_input": keep_input, "in_place": not in_place, "compiler": compiler != "zig"}
        _refuse_options({name: value for name, value in boards_only.items() if value}, (), board)
        return plan_linux(board, model, calibration=calibration, precision=precision, vectors=vectors, quant_report=quant_report, progress=progress, **linux)
    _refuse_options(linux, (), board)
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}")
    ready = _prepare(model, calibration, precision, _options(quant), progress)
    from sdk.planner.plan import make_plan

    return make_plan(
        board,
        ready.graph,
        name=model.name,
        keep_input=keep_input,
        in_place=in_place,
        compiler=compiler,
        decisions=ready.decisions,
        vectors=_vectors(ready.graph, vectors) or ready.vectors(),
        quant_report=ready.report() if quant_report else None,
    )


def _plan_training(board: Device, work: Any, training: Training, calibration: Any, given: Mapping[str, Any], progress: Progress | None) -> Plan | TrainingPlan:
    """The plan of a model that learns. `given`: other options of `plan_model`; those that training does not have are refused."""
    from sdk.training.linux import labelled_data, plan_linux_training

    if not isinstance(training, Training):
        raise UsageError(f"training is a {type(training).__name__}; give sdk.Training(...), for example training=sdk.Training(budget='64KiB')")
    options = {name: value for name, value in given.items() if value}
    known = ("threads",) if board.kind == "linux" else ("quant", "precision", "compiler")
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(f"sdk.plan has no option {unknown[0]!r} together with training= for {board.name}; leave it out")
    is_module = hasattr(work, "state_dict") and callable(work) and not isinstance(work, Model)
    model = load(work, labelled_data(calibration)[0][:1]) if is_module else load(work)
    if board.kind == "linux":
        return plan_linux_training(board, model, training, calibration, progress=progress, **options)
    from sdk.training.boards import plan_board_training

    quant: dict[str, Any] = {"quant": _options(options.pop("quant"))} if "quant" in options else {}
    data = None if calibration is None else labelled_data(calibration)
    return plan_board_training(board, model, training, data, progress, **quant, **options)


def _refuse_options(given: Mapping[str, Any], known: Sequence[str], board: Device) -> None:
    """Raises UsageError for an option that `sdk.plan` does not have, or not for this kind of device."""
    for name in given:
        if name not in known:
            here = f"; {name} is for Linux devices and {board.name} is a microcontroller, so leave it out" if name in LINUX_OPTIONS else ""
            here = here or (f"; {name} is for microcontrollers, so leave it out" if board.kind == "linux" else "; see help(sdk.plan)")
            raise UsageError(f"sdk.plan has no option {name!r} for {board.name}{here}")


@dataclass(frozen=True)
class _Ready:
    """The graph after its passes and what was decided; for a model quantised here, what it was made of and with."""

    graph: Graph
    decisions: tuple[str, ...]
    real: Graph | None = None
    quantised: Graph | None = None
    samples: Calibration | None = None

    def vectors(self) -> list[tuple[np.ndarray, ...]]:
        """Two calibration samples and a random input, which reaches values that real data do not; none without calibration."""
        from sdk.golden import random_inputs

        if self.samples is None:
            return []
        rows = [self.samples.load(i) for i in range(min(2, self.samples.count))]
        return _vectors(self.graph, [tuple(row[name] for name in self.graph.inputs) for row in rows]) + random_inputs(self.graph, 1)

    def report(self) -> QuantReport:
        """What quantising cost, on the calibration samples."""
        from sdk.passes.quant_report import report

        if self.real is None or self.quantised is None:
            raise UsageError("quant_report compares with the float model, and nothing was quantised here; give a float model and calibration data")
        return report(self.real, self.quantised, self.samples)


def _prepare(model: Model, calibration: Any, precision: str, options: QuantOptions, progress: Progress | None) -> _Ready:
    """The model after its passes."""
    from sdk.passes.pipeline import prepare

    if model.is_quantised:
        if precision == "float32":
            raise UsageError(f"{model.name} is quantised and was asked for in float32; load the float model instead")
        ready = prepare(model.graph)
        return _Ready(ready, ("The model came quantised; its integers are kept as they are.", *_removed(model.graph, ready)))
    if precision == "float32" or (precision == "auto" and calibration is None):
        why = "as asked" if precision == "float32" else "because no calibration data was given; give some to have it in int8"
        return _Ready(prepare(model.graph), (f"The model stays in float32, {why}.",))
    if calibration is None:
        raise UsageError(f"{model.name} is a float model: int8 needs calibration data; give calibration=, a few hundred real inputs")
    return _quantise(model, calibration, options, progress)


def _quantise(model: Model, calibration: Any, options: QuantOptions, progress: Progress | None) -> _Ready:
    from sdk.data import read
    from sdk.passes.pipeline import prepare
    from sdk.passes.quantise import quantise

    if progress:
        progress("calibrating")
    real = prepare(model.graph)
    samples = read(calibration, real, options.samples)  # once: a generator gives its samples only once
    graph = quantise(real, samples, options)
    ready = prepare(graph)
    return _Ready(ready, (f"Quantised on {samples.count} calibration samples: {options}.", *_removed(graph, ready)), real, graph, samples)


def _options(quant: QuantOptions | Mapping[str, Any] | None) -> QuantOptions:
    """The options, from themselves or from a mapping of their fields."""
    from sdk.passes.quantise import QuantOptions

    if isinstance(quant, QuantOptions):
        return quant
    known = QuantOptions.__dataclass_fields__
    for name in quant or {}:
        if name not in known:
            raise UsageError(f"quant names {name!r}, which is no option; choose from {', '.join(known)}")
    return QuantOptions(**(quant or {}))


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
