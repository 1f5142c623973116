"""Golden steps of training: samples, and what the interpreter makes of them; a board proves that it learns the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UsageError
from sdk.golden import npy_array, npy_bytes
from sdk.planner.plan import Plan
from sdk.training.mcu.stable import LARGEST_LOSS, SMALLEST_LOSS, Stepper, Taken, candidates, second_best

if TYPE_CHECKING:
    from sdk.session import Session, VerifyReport

#: Largest difference of a loss or a variable from the interpreter's, relative to the largest value of the variable. Sums are taken in
#: another order on the device. int8 weights: the share of them that may differ, by one unit, where noise rounds the other way.
TOLERANCE = 1e-4
INT8_SHARE = 2e-3
#: Largest such difference between a golden step and the same step nudged by more than rounding does.
STABLE = TOLERANCE / 4


@dataclass(frozen=True)
class TrainingGolden:
    """`len(labels)` steps from the firmware's values: inputs as the model takes them, the loss of each, every variable afterwards."""

    inputs: tuple[np.ndarray, ...]
    labels: tuple[int, ...]
    losses: tuple[float, ...]
    variables: Mapping[str, np.ndarray] = field(repr=False)
    note: str = ""  # why there are fewer steps than were wanted


def make_training_golden(plan: Plan) -> TrainingGolden:
    """As many steps as the plan has vectors, as the interpreter takes them, on samples whose step hangs on no rounding; fewer, with a
    note, where too few are found. Raises UsageError for a plan of inference, or one without vectors."""
    if plan.training is None or not plan.vectors:
        raise UsageError(f"the plan of {plan.name} is not one of training with samples to prove it by; make it with plan_training")
    stepper = Stepper(plan.graph, plan.training)
    state, nudged = stepper.start(), stepper.starts()
    inputs: list[np.ndarray] = []
    labels: list[int] = []
    losses: list[float] = []
    for x, label in candidates(plan.graph, plan.training, plan.vectors):
        entering = stepper.entering(x)
        chosen = second_best(stepper.step(entering, 0, state).logits) if label is None else label
        taken = stepper.step(entering, chosen, state)
        others = _agreeing(taken, stepper.nudged(entering, chosen, nudged)) if _learns(stepper, entering, chosen, taken) else ()
        if others:
            state, nudged = taken.variables, tuple(other.variables for other in others)
            inputs.append(x)
            labels.append(chosen)
            losses.append(taken.loss)
        if len(labels) == len(plan.vectors):
            break
    ordered = {v.name: state[v.name] for v in plan.training.variables}
    return TrainingGolden(tuple(inputs), tuple(labels), tuple(losses), ordered, _note(len(labels), len(plan.vectors)))


def _learns(stepper: Stepper, entering: Mapping[str, np.ndarray], label: int, taken: Taken) -> bool:
    """False where the loss is too small or too large to begin with, or the step makes it too large. NaN is none of these."""
    return SMALLEST_LOSS <= taken.loss <= LARGEST_LOSS and 0.0 <= stepper.step(entering, label, taken.variables).loss <= LARGEST_LOSS


def _agreeing(taken: Taken, others: Iterator[Taken]) -> tuple[Taken, ...]:
    """The nudged steps where each leaves what `taken` did, else none of them."""
    found = []
    for other in others:
        apart = max(_loss_apart(taken.loss, other.loss), *(difference(value, other.variables[name]) for name, value in taken.variables.items()))
        if not apart <= STABLE:
            return ()
        found.append(other)
    return tuple(found)


def _note(steps: int, wanted: int) -> str:
    if steps == wanted:
        return ""
    return f"{steps} training steps instead of {wanted}: with every other sample tried, rounding decides what is learnt, or the loss is too large or too small"


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
        "golden": {"labels": list(golden.labels), "losses": list(golden.losses), "tolerance": TOLERANCE, "note": golden.note},
    }  # fmt: skip


def read_golden(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> TrainingGolden:
    """The golden steps of an artifact that learns."""
    told = manifest["training"]
    labels = tuple(int(n) for n in told["golden"]["labels"])
    inputs = tuple(_array(files, f"golden/step{n}_input.npy") for n in range(len(labels)))
    variables = {row["name"]: _array(files, f"golden/variable{n}.npy") for n, row in enumerate(told["variables"])}
    return TrainingGolden(inputs, labels, tuple(float(v) for v in told["golden"]["losses"]), variables, str(told["golden"].get("note", "")))


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


def _loss_apart(wanted: float, got: float) -> float:
    return abs(wanted - got) / max(abs(wanted), 1e-3)


def compare(golden: TrainingGolden, losses: list[float], variables: Mapping[str, np.ndarray]) -> tuple[float, str | None]:
    """(largest difference, what first differs by more than the tolerance)."""
    largest = 0.0
    for number, (wanted, got) in enumerate(zip(golden.losses, losses, strict=True)):
        apart = _loss_apart(wanted, got)
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
    details = (*report.details, golden.note or f"{len(golden.labels)} training steps")
    return replace(report, tolerance=TOLERANCE, largest_difference=max(report.largest_difference, largest), first_difference=wrong, details=details)


def _take_steps(session: Session, golden: TrainingGolden, progress: Callable[[str], None] | None) -> tuple[list[float], Mapping[str, np.ndarray]]:
    """(losses, variables) of the golden steps on the session's board."""
    losses = []
    for number, (x, label) in enumerate(zip(golden.inputs, golden.labels, strict=True), 1):
        if progress:
            progress(f"training step {number} of {len(golden.labels)}")
        losses.append(session.board.train_step(number, label, x.tobytes()).loss)
    return losses, session.pull(everything=True)
