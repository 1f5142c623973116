"""`Trainer`: training of a program inside the memory that was planned, one step at a time or a whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import DataError, TrainingDiverged, UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.nn import state
from sdk.training.nn.data import checked_labels, checked_samples
from sdk.training.nn.engine import Engine
from sdk.training.nn.fit import FitResult, fit
from sdk.training.nn.learners import learners
from sdk.training.nn.meter import Meter, SavedBytes
from sdk.training.nn.program import TrainableProgram
from sdk.training.nn.threads import threads as with_threads
from sdk.training.nn.update import Updates

if TYPE_CHECKING:
    from sdk.training.nn.calibration import Calibration


@dataclass(frozen=True)
class StepResult:
    """loss: mean cross-entropy over the batch. accuracy: the share of its samples that were right, before the update."""

    loss: float
    accuracy: float


class Trainer:
    """Trains the chosen layers of a program.

    choices: how each layer learns; those without one are frozen. calibration: for methods that need bases or ranks.
    undo: a step that fails half-way leaves the weights as they were, for as many bytes as the trained weights; without it only a loss that is
    not finite is sure to change nothing. decisions: sentences on what was done and why. Raises UsageError for choices that do not fit.
    """

    def __init__(
        self,
        program: TrainableProgram,
        choices: Sequence[Choice],
        calibration: Calibration | None = None,
        training: Training | None = None,
        threads: int = 1,
        undo: bool = True,
    ) -> None:
        training = training or Training()
        self.program, self.choices, self.training, self.threads = program, tuple(choices), training, threads
        found = learners(program, choices, calibration, training)
        self.learners, self.decisions = found.by_layer, program.decisions + found.decisions
        momentum = training.momentum if training.optimiser == "momentum" else 0.0
        self.updates = Updates(found.values, found.scales, training.learning_rate, momentum, found.together, undo)
        self.micro_batch = min(training.micro_batch or training.batch, training.batch)
        _check_batch(program, training.batch, self.micro_batch)
        self.engine = Engine(program, found, self.updates)
        self._meter = Meter([*program.values.values(), *found.values.values()], found.constants)
        self._saved = SavedBytes()
        self.steps, self._apart = 0, program.batch is not None  # a fixed batch is taken as it was exported
        if self.micro_batch < training.batch:
            self._take_apart()

    def step(self, x: Any, y: Any) -> StepResult:
        """One update on samples [N, ...] with labels [N]. Raises DataError for data that does not fit, TrainingDiverged with nothing changed."""
        x, y = self._checked(x, y)
        if self.program.batch and x.shape[0] % self.program.batch:
            raise DataError(f"{x.shape[0]} samples were given and the program was exported for batches of {self.program.batch}; give a multiple, drop the last")
        starts = range(0, x.shape[0], self.micro_batch)
        if len(starts) > 1:
            self._take_apart()
        self._saved, before = SavedBytes(), state.snapshot(self)
        with with_threads(self.threads):
            self.updates.begin(len(starts))
            try:
                parts = [self._part(x[i : i + self.micro_batch], y[i : i + self.micro_batch], x.shape[0]) for i in starts]
                self.updates.finish()
            except BaseException:
                self.updates.roll_back()
                state.take_back(before)
                raise
        self.steps += 1
        return StepResult(sum(loss for loss, _ in parts), sum(right for _, right in parts) / x.shape[0])

    def fit(self, batches: Iterable[tuple[Any, Any]], epochs: int = 1, **options: Any) -> FitResult:
        """A whole run; see `sdk.training.nn.fit.fit` for evaluate, on_step, early_stop, checkpoint, every, resume and stop."""
        return fit(self, batches, epochs, **options)

    def evaluate(self, x: Any, y: Any) -> StepResult:
        """Mean loss and accuracy on samples [N, ...] with labels [N]; nothing changes."""
        x, y = self._checked(x, y)
        logits = self.predict(x)
        return StepResult(float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean()))

    def predict(self, x: Any) -> Tensor:
        """Logits [N, classes] with the weights as they are now."""
        with with_threads(self.threads):
            return self.engine.infer(checked_samples(x, self.program))

    def saved_bytes(self) -> SavedBytes:
        """Bytes held for backward in the last step: those of the micro-batch that held most."""
        return self._saved

    def state_dict(self) -> dict[str, Tensor]:
        """The source model's parameters and buffers with what was learned: batch norms unfolded, adapters merged."""
        return self.program.merged(self.engine.effective())

    def module(self) -> nn.Module:
        """A copy of the source module with what was learned."""
        return self.program.module(self.engine.effective())

    def _checked(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        x = checked_samples(x, self.program)
        return x, checked_labels(y, x.shape[0], self.program.classes)

    def _take_apart(self) -> None:
        """Raises UsageError where micro-batches would change what is learned."""
        if not self._apart and mixes_samples(self.engine):
            raise UsageError(f"the model mixes the samples of a batch, so it cannot learn from {self.micro_batch} at a time; raise micro_batch")
        self._apart = True

    def _part(self, x: Tensor, y: Tensor, batch: int) -> tuple[float, int]:
        """(share of the loss, samples that were right) of one micro-batch, after its backward pass."""
        with self._meter.watching():
            logits = self.engine.forward(x)
            loss = F.cross_entropy(logits, y, reduction="sum") / batch
        saved = self._meter.saved()
        self._saved = max(saved, self._saved, key=lambda s: s.batch)
        value, right = float(loss.detach()), int((logits.detach().argmax(1) == y).sum())
        if not math.isfinite(value):
            rate = self.training.learning_rate
            raise TrainingDiverged(f"the loss of step {self.steps + 1} is {value}, so the step was not taken; lower the learning rate ({rate:g})")
        del logits
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return value, right


def mixes_samples(engine: Engine) -> bool:
    """True when a sample's logits depend on the others of its batch: then a batch cannot be taken apart."""
    program, generator = engine.program, torch.Generator().manual_seed(0)
    if program.input_dtype.is_floating_point:
        x = torch.rand(3, *program.input_shape, generator=generator).to(program.input_dtype)
    else:
        x = torch.randint(0, 2, (3, *program.input_shape), generator=generator).to(program.input_dtype)
    whole, alone = engine.infer(x), engine.infer(x, 1)
    return not torch.allclose(whole, alone, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def _check_batch(program: TrainableProgram, batch: int, micro_batch: int) -> None:
    if program.batch is not None and (program.batch != micro_batch or batch % micro_batch):
        mend = f"train with micro_batch={program.batch} and a batch of a multiple of it, or export with a dynamic batch"
        raise UsageError(f"the program was exported for batches of {program.batch} and training asks for {micro_batch}; {mend}")
