"""Planning what a model learns on a Linux device: read its program, calibrate it on the host, choose within the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import DataError, UsageError
from sdk.planner.assess import main_memory
from sdk.planner.training.make import Case, make_training_plan
from sdk.planner.training.options import AUTO, EPS_GRID
from sdk.planner.training.plan import TrainingPlan
from sdk.planner.training.rates import rates_of, runtime_of
from sdk.planner.training.spec import Training
from sdk.planner.training.walk import walk_of
from sdk.planner.training.workspace import COMPRESSED

if TYPE_CHECKING:
    from targets.device import Device

Progress = Callable[[str], None]
#: Samples that a calibration looks at, and the largest batch it does so in.
SAMPLES, BATCH = 256, 32
#: Where layers share one eps, those of small gradients keep less of theirs than anyone would ask of a layer alone.
SMALL_SHARES = (0.3, 0.4)


def plan_linux_training(device: Device, model: Any, training: Training, calibration: Any, threads: int = 1, progress: Progress | None = None) -> TrainingPlan:
    """The plan of training `model` (a loaded torch `Model`) on a Linux device.

    calibration: (inputs [n, ...], labels [n]), what the model is to learn from, or data like it.
    Raises DataError for data of another kind, UsageError for a model that is no torch model or layers that are not there.
    """
    tell = progress or (lambda _: None)
    inputs, labels = labelled_data(calibration)
    tell("reading the program")
    program = trainable(model, inputs)
    from sdk.training.nn.calibrate import ranks_for
    from sdk.training.nn.calibration import shared_ranks
    from sdk.training.nn.engine import PREFIX_CHUNK

    tell("calibrating")
    found = _calibrated(program, inputs, labels, training)
    tell("choosing")
    runtime, basis = runtime_of(device)
    case = Case(
        model.name, device, walk_of(program), found.records, ranks_for, main_memory(device).usable_bytes, runtime, rates_of(device, threads), PREFIX_CHUNK,
        program.batch or 0, basis, shared_ranks,
    )  # fmt: skip
    made = make_training_plan(case, training, model=model, program=program, threads=threads, decisions=program.decisions)
    return replace(made, calibration=slim(found, made))


def labelled_data(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """(inputs [n, ...], labels int64 [n]), at most SAMPLES of them, evenly over all. Raises DataError."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError("planning training needs to see what is to be learned; give calibration=(x, y) with inputs x [n, ...] and labels y [n]")
    x, y = (np.asarray(part.detach() if hasattr(part, "detach") else part) for part in data)
    if y.ndim != 1 or y.dtype.kind not in "iu" or x.ndim < 2 or len(x) != len(y) or not len(x):
        raise DataError(f"inputs {list(x.shape)} and labels {y.dtype}{list(y.shape)} do not go together; give inputs [n, ...] and one whole number for each")
    rows = np.linspace(0, len(x) - 1, min(SAMPLES, len(x))).round().astype(int)
    return x[rows], y[rows].astype(np.int64)


def trainable(model: Any, inputs: np.ndarray) -> Any:
    """The `TrainableProgram` of a loaded torch model."""
    if getattr(model, "kind", "") != "torch":
        raise UsageError(f"{getattr(model, 'name', 'the model')} cannot learn on a Linux device, where torch trains; give the model's nn.Module or .pt2 file")
    from sdk.training.nn.program import read_program

    source = model.source if isinstance(model.source, (str, Path)) or hasattr(model.source, "state_dict") else model.program
    return read_program(source, np.ascontiguousarray(inputs[:2]))


def _calibrated(program: Any, inputs: np.ndarray, labels: np.ndarray, training: Training) -> Any:
    from sdk.training.nn.calibrate import calibrate

    batch = program.batch or max(2, min(BATCH, training.batch, len(inputs)))
    ends = range(0, len(inputs) - (len(inputs) % batch if program.batch else 0), batch)
    batches = [(inputs[i : i + batch], labels[i : i + batch]) for i in ends]
    methods = tuple(m for m in AUTO if m in COMPRESSED) if training.method == "auto" else (training.method,) if training.method in COMPRESSED else ()
    grid = {"auto": EPS_GRID, "fixed": (*SMALL_SHARES, *EPS_GRID, training.eps)}.get(training.method, (training.eps,))
    return calibrate(program, batches, sorted(set(grid)), methods)


def slim(calibration: Any, plan: TrainingPlan) -> Any:
    """The calibration as the device needs it: spectra and bases of compressed layers alone, and of these the directions that are used."""
    chosen = {c.layer: c for c in plan.choices if c.method in COMPRESSED}
    records = tuple(r if r.name in chosen else replace(r, spectra=()) for r in calibration.records)
    bases = {}
    for name, choice in chosen.items():
        ranks = choice.ranks or (0,) * (1 + len(calibration.bases[name]))
        known = zip(calibration.bases[name], ranks[1:], strict=True)
        bases[name] = tuple(basis[:, :rank].clone() if choice.method in ("fixed", "adapter") else basis[:, :0].clone() for basis, rank in known)
    return replace(calibration, records=records, bases=bases)
