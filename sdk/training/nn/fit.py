"""A whole training run: epochs, held-back samples, early stop, checkpoints to go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdk.errors import DataError
from sdk.training.nn import state
from sdk.training.nn.checkpoint import load_checkpoint, save_checkpoint
from sdk.training.rates import fallen

if TYPE_CHECKING:
    from sdk.training.nn.trainer import Trainer


@dataclass(frozen=True)
class StepReport:
    """One update, told while it happens. held_out: accuracy on held-back samples, where this step ended an epoch."""

    step: int
    epoch: int
    loss: float
    accuracy: float
    held_out: float | None = None


@dataclass(frozen=True)
class FitResult:
    """losses: of every update in order, those before a resumed checkpoint among them. ended: "done", "early stop" or "asked to stop".

    accuracy_before, accuracy: shares of the held-back samples that were right, None where none were held back.
    """

    steps: int
    losses: tuple[float, ...] = field(repr=False)
    accuracy_before: float | None
    accuracy: float | None
    ended: str


@dataclass
class _Run:
    """Where a run stands. position: batches done in the epoch. begun: random state when the epoch began, from which its order follows."""

    epoch: int = 0
    position: int = 0
    losses: list[float] = field(default_factory=list)
    before: float | None = None
    best: float | None = None
    worse: int = 0
    last: float | None = None
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    falling: tuple[float, int] | None = None  #: the rate that falls, and batches in an epoch
    begun: tuple[dict[str, np.ndarray], dict[str, Any]] = field(default_factory=state.random_state)


def fit(
    trainer: Trainer,
    batches: Iterable[tuple[Any, Any]],
    epochs: int = 1,
    evaluate: tuple[Any, Any] | Callable[[Trainer], float] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    early_stop: int = 0,
    checkpoint: str | Path | None = None,
    every: int = 0,
    resume: bool = True,
    stop: Callable[[], bool] | None = None,
    decay: bool = False,
) -> FitResult:
    """Train `epochs` times through `batches` (an iterable of (x, y), or `data.Batches`, whose order depends on its seed and the epoch).

    evaluate: held-back samples (x, y), or a call that gives an accuracy, judged before training and after every epoch. early_stop: end after so
    many epochs without a better accuracy, with the best epoch's values (a copy of them is kept meanwhile). checkpoint: a file written after
    every epoch, and every `every` steps; with resume, a run goes on from it to the very same values as if it had never stopped. stop: asked
    after each step; where it stands then is in the checkpoint. decay: let the learning rate fall along half a cosine to nothing over all the epochs
    (see `sdk.training.rates`); it needs `batches` with a length. Raises DataError for an empty stream; what `Trainer.step` raises comes through.
    """
    run = _Run()
    judge = _judge(evaluate)
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and resume and path.exists():
        run = _resumed(trainer, path)
    elif judge is not None:
        run.before = run.best = run.last = judge(trainer)
        run.kept = _values(trainer) if early_stop else {}
    if decay:
        run.falling = trainer.updates.learning_rate, _each(batches)
    ended = "done"
    try:
        while run.epoch < epochs and ended == "done":
            if early_stop and run.worse >= early_stop:
                ended = "early stop"
                break
            if _epoch(trainer, batches, run, judge, on_step, early_stop, path, every, stop, epochs):
                ended = "asked to stop"
    finally:
        if run.falling:
            trainer.updates.learning_rate = run.falling[0]
    if early_stop and run.kept and run.last is not None and run.best is not None and run.last < run.best:
        _put(trainer, run.kept)
        run.last = run.best
    return FitResult(trainer.steps, tuple(run.losses), run.before, run.last, ended)


def _epoch(
    trainer: Trainer,
    batches: Iterable[tuple[Any, Any]],
    run: _Run,
    judge: Callable[[Trainer], float] | None,
    on_step: Callable[[StepReport], None] | None,
    early_stop: int,
    path: Path | None,
    every: int,
    stop: Callable[[], bool] | None,
    epochs: int,
) -> bool:
    """The rest of an epoch; True where it was asked to stop."""
    for last, x, y in _dealt(batches, run, path is not None and run.position > 0):
        if run.falling:
            rate, each = run.falling
            trainer.updates.learning_rate = fallen(rate, (run.epoch + run.position / each) / epochs)
        result = trainer.step(x, y)
        run.losses.append(result.loss)
        run.position += 1
        held_out = _epoch_over(trainer, run, judge, early_stop) if last else None
        if path is not None and (last or (every and run.position % every == 0)):
            _save(trainer, path, run)
        if on_step is not None:
            on_step(StepReport(trainer.steps, run.epoch - last, result.loss, result.accuracy, held_out))
        if stop is not None and stop():
            if path is not None:
                _save(trainer, path, run)
            return True
    return False


def _each(batches: Any) -> int:
    """Batches in an epoch. Raises DataError where they do not tell."""
    if not hasattr(batches, "__len__"):
        raise DataError("a learning rate that falls needs to know how many batches an epoch has; give a list of batches, or leave decay out")
    return max(1, len(batches))


def _dealt(batches: Iterable[tuple[Any, Any]], run: _Run, resumed: bool) -> Iterator[tuple[bool, Any, Any]]:
    """(whether it is the epoch's last, x, y) from the run's position on. Raises DataError for an empty stream."""
    now = state.random_state()
    if resumed:  # the epoch's order came from the random state that it began with
        state.set_random_state(*run.begun)
    else:
        run.begun = now
    stream = iter(batches.epoch(run.epoch) if hasattr(batches, "epoch") else batches)
    skip = run.position
    for _ in range(skip):
        next(stream, None)
    waiting = next(stream, None)
    if resumed:  # the one ahead was dealt before the checkpoint was written
        state.set_random_state(*now)
    if waiting is None and not skip:
        raise DataError(f"the training data has no batch in epoch {run.epoch + 1}; give a list of batches, or samples that can be gone through again")
    if waiting is None:
        run.epoch, run.position = run.epoch + 1, 0
    while waiting is not None:
        following = next(stream, None)
        yield following is None, *waiting
        waiting = following


def _epoch_over(trainer: Trainer, run: _Run, judge: Callable[[Trainer], float] | None, early_stop: int) -> float | None:
    run.epoch, run.position = run.epoch + 1, 0
    if judge is None:
        return None
    run.last = judge(trainer)
    if run.best is None or run.last > run.best:
        run.best, run.worse = run.last, 0
        if early_stop:
            run.kept = _values(trainer)
    else:
        run.worse += 1
    return run.last


def _judge(evaluate: Any) -> Callable[[Trainer], float] | None:
    if evaluate is None or callable(evaluate):
        return evaluate  # type: ignore[no-any-return]
    x, y = evaluate
    return lambda trainer: trainer.evaluate(x, y).accuracy


def _save(trainer: Trainer, path: Path, run: _Run) -> None:
    now_arrays, now = state.random_state()
    begun_arrays, begun = run.begun
    arrays = state.trained_arrays(trainer) | {f"kept/{key}": value for key, value in run.kept.items()} | {"losses": np.array(run.losses)}
    arrays |= {f"now/{key}": value for key, value in now_arrays.items()} | {f"begun/{key}": value for key, value in begun_arrays.items()}
    plain = {name: getattr(run, name) for name in ("epoch", "position", "before", "best", "worse", "last")}
    save_checkpoint(path, arrays, {**state.plain_state(trainer), "run": plain, "now": now, "begun": begun}, trainer.program.model_id)


def _resumed(trainer: Trainer, path: Path) -> _Run:
    arrays, meta = load_checkpoint(path, trainer.program.model_id)
    state.restore(trainer, arrays, meta)
    state.set_random_state(_under(arrays, "now"), meta["now"])
    run = _Run(**meta["run"], losses=arrays["losses"].tolist(), kept=_under(arrays, "kept"))
    run.begun = (_under(arrays, "begun"), meta["begun"])
    return run


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in arrays.items() if key.startswith(f"{prefix}/")}


def _values(trainer: Trainer) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in trainer.updates.values.items()}


def _put(trainer: Trainer, values: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        for key, value in values.items():
            trainer.updates.values[key].copy_(torch.from_numpy(value))
