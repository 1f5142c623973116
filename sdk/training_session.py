"""Training on a microcontroller from the host: sample after sample goes there, losses come back, the values stay on the board.

`sdk.session.Session.train` is this. One sample is one update; what was learned is in the board's RAM until it is committed to its flash.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import DataError, TrainingDiverged, UsageError
from sdk.golden import check_input
from sdk.train_result import TrainResult, TrainStep
from sdk.training.rates import fallen
from sdk.training_values import NUMPY, learns

if TYPE_CHECKING:
    from sdk.session import Session

Sample = tuple[tuple[bytes, ...], int]


@dataclass(frozen=True)
class Wish:
    """What `train` was asked. early_stop: told of every update, True ends training. patience: epochs without a better held-out accuracy.

    decay: each epoch goes at a lower rate than the one before, along half a cosine.
    """

    epochs: int = 1
    learning_rate: float = 0.01
    momentum: float = 0.0
    held_out: float = 0.0
    patience: int = 0
    seed: int = 0
    on_step: Callable[[TrainStep], None] | None = None
    early_stop: Callable[[TrainStep], bool] | None = None
    commit: bool = True
    decay: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.patience < 0:
            raise UsageError(f"{self.epochs} epochs with a patience of {self.patience} are not possible; give 1 epoch or more and a patience of 0 or more")
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate) or not 0 <= self.momentum < 1:
            raise UsageError(
                f"a learning rate of {self.learning_rate} with momentum {self.momentum} is not possible; give a rate above 0 and a momentum in [0, 1)"
            )
        if self.patience and not self.held_out:
            raise UsageError("patience judges by samples that are held back, and none are; give held_out=0.2, or an early_stop of your own")


@dataclass
class Course:
    """How far training has come."""

    each: int = 0  # samples of an epoch; 0: not known
    started: int = 0  # updates when the board was last told a rate, from where it counts
    losses: list[float] = field(default_factory=list)
    instructions: int | None = None
    ended: str = "done"
    best: float = -1.0
    best_epoch: int = 0
    best_values: list[bytes] = field(default_factory=list)


def train(session: Session, stream: Any, labels: Any = None, **options: Any) -> TrainResult:
    """Check each sample, send it, take its step: see `Session.train`."""
    told = learns(session)
    options = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(options) - {f.name for f in fields(Wish)})
    if unknown:
        raise UsageError(f"training has no option {unknown[0]}; it has {', '.join(f.name for f in fields(Wish))}")
    wish = Wish(**{"learning_rate": float(told.get("learning_rate", 0.01)), "momentum": float(told.get("momentum", 0.0)), **options})
    read, held, each = _samples(session, stream, labels, wish)
    began, course = time.monotonic(), Course(each)
    session.board.train_start(wish.learning_rate, wish.momentum)
    before = _accuracy(session, held)
    accuracy = _epochs(session, read, held, wish, course)
    if not course.losses:
        raise DataError("there are no samples to learn from; give (input, label) pairs, or inputs [n, ...] and labels [n]")
    if wish.commit and session.board.train_info().can_commit:
        session.board.commit()
    return TrainResult(
        len(course.losses), tuple(course.losses), before, accuracy, len(held), course.ended, time.monotonic() - began, None, course.instructions
    )


def _epochs(session: Session, read: Callable[[], Iterator[Sample]], held: Sequence[Sample], wish: Wish, course: Course) -> float | None:
    """Every epoch until it is done or asked to stop; the held-out accuracy of the values that are left on the board."""
    accuracy = None
    for epoch in range(1, wish.epochs + 1):
        if wish.decay and epoch > 1:
            session.board.train_start(fallen(wish.learning_rate, (epoch - 1) / wish.epochs), wish.momentum)
            course.started = len(course.losses)
        last = _epoch(session, read, epoch, wish, course, judged=bool(held))
        accuracy = _accuracy(session, held)
        if last is not None and held and wish.on_step:
            wish.on_step(replace(last, held_out=accuracy))
        if wish.patience and accuracy is not None:
            _remember(session, accuracy, epoch, course)
            if epoch - course.best_epoch >= wish.patience and course.ended == "done":
                course.ended = "early stop"
        if course.ended != "done" or last is None:
            break
    if course.best_values and accuracy is not None and accuracy < course.best:
        for index, data in enumerate(course.best_values):
            session.board.write_variable(index, data)
        accuracy = course.best
    return accuracy


def _remember(session: Session, accuracy: float, epoch: int, course: Course) -> None:
    if accuracy > course.best:
        course.best, course.best_epoch = accuracy, epoch
        course.best_values = [session.board.read_variable(i) for i in range(session.board.train_info().variable_count)]


def _epoch(session: Session, read: Callable[[], Iterator[Sample]], epoch: int, wish: Wish, course: Course, judged: bool) -> TrainStep | None:
    """One pass over the samples; its last step, None when there was none. judged: that step is told by the caller, with its accuracy."""
    done: TrainStep | None = None
    for at, (inputs, label) in enumerate(read(), 1):
        number = len(course.losses) + 1
        if number == 1 and session.emulated is not None:
            session.emulated.clear_counts()
        answer = session.board.train_step(number - course.started, label, *inputs)
        if number == 1 and session.emulated is not None:
            course.instructions = sum(cost.instructions for cost in session.emulated.steps())
        if not math.isfinite(answer.loss):
            raise _diverged(session, number, answer.loss, wish.learning_rate)
        course.losses.append(answer.loss)
        done = TrainStep(number, epoch, answer.loss, float(answer.predicted == label), of=wish.epochs * course.each)
        if wish.early_stop and wish.early_stop(done):
            course.ended = "early stop"
        if wish.on_step and not (judged and (at == course.each or course.ended != "done")):
            wish.on_step(done)
        if course.ended != "done":
            break
    return done


def _diverged(session: Session, number: int, loss: float, rate: float) -> TrainingDiverged:
    kept = session.board.forget()
    values = f"those of the copy {kept.sequence} in its flash" if kept.sequence else "those the firmware came with"
    return TrainingDiverged(f"step {number} gave a loss of {loss}; the board's values are again {values}: lower the learning rate of {rate:g}")


# -- samples -----------------------------------------------------------------------------------------------------------


def _samples(session: Session, stream: Any, labels: Any, wish: Wish) -> tuple[Callable[[], Iterator[Sample]], list[Sample], int]:
    """What gives the samples of one epoch, each checked as it is read, those held back, and how many an epoch has, 0 where it does not tell.
    Raises `DataError`."""
    source = _pairs(stream, labels)
    if isinstance(source, Iterator) and (wish.epochs > 1 or wish.held_out):
        raise DataError("the stream can be read only once, and epochs or held-back samples need it again; give a list or arrays")
    if not wish.held_out:
        return lambda: _checked(session, source), [], len(source) if isinstance(source, Sized) else 0
    every = list(_checked(session, source))
    if not every:
        return lambda: iter(()), [], 0
    from sdk.remote_training import hold_back

    rows = hold_back(np.arange(len(every)), np.array([label for _, label in every]), wish.held_out, wish.seed)
    kept, held = [every[i] for i in rows.x], [every[i] for i in rows.held_x]
    return lambda: iter(kept), held, len(kept)


def _pairs(stream: Any, labels: Any) -> Iterable[Any]:
    if labels is None:
        if not isinstance(stream, Iterable):
            raise DataError(f"a {type(stream).__name__} is no stream of samples; give (input, label) pairs, or inputs [n, ...] and labels [n]")
        return stream
    if len(stream) != len(labels):
        raise DataError(f"{len(stream)} inputs came with {len(labels)} labels; give one whole number for each")
    return list(zip(stream, labels, strict=True))


def _checked(session: Session, source: Iterable[Any]) -> Iterator[Sample]:
    classes = session.board.train_info().classes
    for number, pair in enumerate(source):
        yield check_sample(session, number, pair, classes)


def check_sample(session: Session, number: int, pair: Any, classes: int) -> Sample:
    """Bytes of the inputs and the label of one (input, label) pair. Raises `DataError`, one sentence: which sample, what is wrong with it."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DataError(f"sample {number} is no pair of input and label; give (input, label) pairs, or inputs [n, ...] and labels [n]")
    inputs = pair[0] if isinstance(pair[0], tuple) else (pair[0],)
    if len(inputs) != len(session.inputs):
        raise DataError(f"sample {number} has {len(inputs)} inputs and {session.artifact.name} takes {len(session.inputs)}; give a tuple of them")
    label = np.asarray(pair[1])
    if label.size != 1 or label.dtype.kind not in "iu":
        raise DataError(f"the label of sample {number} is {label.dtype}{list(label.shape)}; give one whole number, the class")
    if not 0 <= int(label.item()) < classes:
        raise DataError(f"the label {int(label.item())} of sample {number} is none of the model's {classes} classes; labels count from 0 to {classes - 1}")
    for value in inputs:
        if np.asarray(value).dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(f"sample {number} holds NaN or infinity; leave it out")
    try:
        return tuple(check_input(t, value).tobytes() for t, value in zip(session.inputs, inputs, strict=True)), int(label.item())
    except UsageError as error:
        raise DataError(f"sample {number} does not fit: {error}") from error


def _accuracy(session: Session, held: Sequence[Sample]) -> float | None:
    """Share of samples whose highest score is their label's; None without samples."""
    if not held:
        return None
    right = 0
    for inputs, label in held:
        output = session.board.run(*inputs).outputs[0]
        right += int(np.argmax(np.frombuffer(output, NUMPY[session.outputs[0].dtype]))) == label
    return right / len(held)
