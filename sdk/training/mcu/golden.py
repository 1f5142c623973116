"""Golden steps of training: samples, and what the interpreter makes of them; a board proves that it learns the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UsageError
from sdk.golden import npy_array, npy_bytes
from sdk.graph.interpreter import step
from sdk.planner.plan import Plan

if TYPE_CHECKING:
    from sdk.session import Session, VerifyReport

#: Largest difference of a loss or a variable from the interpreter's, relative to the largest value of the variable. Sums are taken in
#: another order on the device. int8 weights: the share of them that may differ, by one unit, where noise rounds the other way.
TOLERANCE = 1e-4
INT8_SHARE = 2e-3


@dataclass(frozen=True)
class TrainingGolden:
    """`len(labels)` steps from the firmware's values: inputs as the model takes them, the loss of each, every variable afterwards."""

    inputs: tuple[np.ndarray, ...]
    labels: tuple[int, ...]
    losses: tuple[float, ...]
    variables: Mapping[str, np.ndarray] = field(repr=False)


def make_training_golden(plan: Plan) -> TrainingGolden:
    """Let the interpreter take the plan's vectors as steps. Raises UsageError for a plan of inference, or one without vectors."""
    if plan.training is None or not plan.vectors:
        raise UsageError(f"the plan of {plan.name} is not one of training with samples to prove it by; make it with plan_training")
    graph, losses, state = plan.graph, [], None
    for vector in plan.vectors:
        outputs, state = step(graph, dict(zip(graph.inputs, vector, strict=True)), state)
        losses.append(float(outputs[plan.training.loss][0]))
    assert state is not None
    ordered = {v.name: state[v.name] for v in plan.training.variables}
    return TrainingGolden(tuple(v[0] for v in plan.vectors), tuple(int(v[1][0]) for v in plan.vectors), tuple(losses), ordered)


def golden_files(golden: TrainingGolden) -> dict[str, bytes]:
    """Path in the artifact -> content: an input a step, and every variable after the last."""
    files = {f"golden/step{n}_input.npy": npy_bytes(x) for n, x in enumerate(golden.inputs)}
    return files | {f"golden/variable{n}.npy": npy_bytes(value) for n, value in enumerate(golden.variables.values())}


def training_manifest(plan: Plan, golden: TrainingGolden) -> dict[str, Any]:
    """The manifest's entry "training"; ARTIFACT.md says what it holds."""
    use = plan.training
    assert use is not None
    variables = [
        {"name": v.name, "layer": v.layer, "part": v.part, "momentum": v.momentum, "dtype": v.dtype, "shape": list(v.shape)} for v in use.variables
    ]
    return {
        "optimiser": use.optimiser, "learning_rate": use.learning_rate, "momentum": use.momentum, "classes": plan.graph[use.logits].shape[-1],
        "forward_steps": use.forward_steps, "steps": [{"name": s.node, "op": s.op, "kernel": s.function} for s in plan.steps if s.call is not None],
        "layers": [vars(layer) for layer in use.layers], "variables": variables,
        "golden": {"labels": list(golden.labels), "losses": list(golden.losses), "tolerance": TOLERANCE},
    }  # fmt: skip


def read_golden(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> TrainingGolden:
    """The golden steps of an artifact that learns."""
    told = manifest["training"]
    labels = tuple(int(n) for n in told["golden"]["labels"])
    inputs = tuple(_array(files, f"golden/step{n}_input.npy") for n in range(len(labels)))
    variables = {row["name"]: _array(files, f"golden/variable{n}.npy") for n, row in enumerate(told["variables"])}
    return TrainingGolden(inputs, labels, tuple(float(v) for v in told["golden"]["losses"]), variables)


def _array(files: Mapping[str, bytes], name: str) -> np.ndarray:
    if name not in files:
        raise UsageError(f"the artifact lacks {name}, which proves its training; compile it again")
    return npy_array(files[name], name)


def difference(wanted: np.ndarray, got: np.ndarray) -> float:
    """Relative to the largest wanted value; of integers, the share that differs scaled so that `INT8_SHARE` is `TOLERANCE`."""
    if wanted.dtype.kind == "i":
        apart = np.abs(wanted.astype(np.int64) - got)
        return float("inf") if apart.max(initial=0) > 1 else float((apart > 0).mean()) * TOLERANCE / INT8_SHARE
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(wanted - got).max(initial=0.0) / max(float(np.abs(wanted).max(initial=0.0)), 1e-6))


def compare(golden: TrainingGolden, losses: list[float], variables: Mapping[str, np.ndarray]) -> tuple[float, str | None]:
    """(largest difference, what first differs by more than the tolerance)."""
    largest = 0.0
    for number, (wanted, got) in enumerate(zip(golden.losses, losses, strict=True)):
        apart = abs(wanted - got) / max(abs(wanted), 1e-3)
        largest = max(largest, apart)
        if not apart <= TOLERANCE:
            return largest, f"the loss of training step {number + 1} is {got:.6g} and should be {wanted:.6g}"
    for name, value in golden.variables.items():
        apart = difference(value, variables[name])
        largest = max(largest, apart)
        if not apart <= TOLERANCE:
            return largest, f"variable {name} after {len(losses)} training steps"
    return largest, None


def proved(session: Session, inference: Callable[[], VerifyReport], progress: Callable[[str], None] | None = None) -> VerifyReport:
    """`inference()`'s report with the firmware's values, and the golden steps taken from there. Afterwards the board has the values again
    that it committed last. Raises UsageError where it has learnt something that it has not committed."""
    if session.board.train_info().changed:
        raise UsageError("the board has learnt what it has not committed, and a proof would lose it; call commit() or forget() first")
    told = session.artifact.manifest["training"]
    start = (float(told["learning_rate"]), float(told["momentum"]))
    try:
        session.board.train_start(*start, "firmware")
        report = inference()
        if not report.ok:
            return report
        session.board.train_start(*start, "firmware")
        golden = read_golden(session.artifact.manifest, session.artifact.files)
        largest, wrong = compare(golden, *_take_steps(session, golden, progress))
    finally:
        session.board.forget()
    details = (*report.details, f"{len(golden.labels)} training steps")
    return replace(report, tolerance=TOLERANCE, largest_difference=max(report.largest_difference, largest), first_difference=wrong, details=details)


def _take_steps(session: Session, golden: TrainingGolden, progress: Callable[[str], None] | None) -> tuple[list[float], Mapping[str, np.ndarray]]:
    """(losses, variables) of the golden steps on the session's board."""
    losses = []
    for number, (x, label) in enumerate(zip(golden.inputs, golden.labels, strict=True), 1):
        if progress:
            progress(f"training step {number} of {len(golden.labels)}")
        losses.append(session.board.train_step(number, label, x.tobytes()).loss)
    return losses, session.pull(everything=True)
