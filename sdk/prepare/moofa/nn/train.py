"""Training a supernet, or a plain net by the same recipe: resumable after a kill at any moment, on one process or several.

Every step's pictures, changes to them and subnets follow from the seed and the step's number alone, so a run that goes on from a
checkpoint ends with the weights of one that was never stopped.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.prepare.moofa.nn.cluster import World
from sdk.prepare.moofa.nn.data import augmented, order, pictures, resized, to_input
from sdk.prepare.moofa.nn.elastic import Supernet
from sdk.prepare.moofa.nn.keep import Kept
from sdk.prepare.moofa.nn.recipe import Phase, Recipe
from sdk.prepare.moofa.nn.sort import sort_channels
from sdk.prepare.moofa.space import Subnet, largest, sample, smallest

#: Seconds between checkpoints.
EVERY_S = 60.0


@dataclass(frozen=True)
class Progress:
    """Where a training stands. loss: of the largest net by the labels, or of all subnets where there is none, averaged over the last hundred steps."""

    phase: str
    step: int  #: within the phase
    steps: int  #: of the phase
    loss: float
    seconds_left: float  #: of all phases, by the steps done so far; nan before the first

    def __str__(self) -> str:
        left = "" if self.seconds_left != self.seconds_left else f", {self.seconds_left / 60:.0f} min left"
        return f"{self.phase} {self.step}/{self.steps} loss {self.loss:.3f}{left}"


Report = Callable[[Progress], None]


@dataclass
class _Run:
    """What one training works with."""

    net: nn.Module
    optimiser: torch.optim.SGD
    x: np.ndarray
    y: np.ndarray
    recipe: Recipe
    world: World
    teacher: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device


def train(
    net: nn.Module, x: np.ndarray, y: np.ndarray, recipe: Recipe, checkpoint: str | Path | None = None, report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:  # fmt: skip
    """Train `net`, a `Supernet` or any classifier, in place; True when it is done, False when `stop` said so.

    x: uint8 [n, H, W, 3]; y: integers [n]. checkpoint: a file that is written every minute and when stopped; a run goes on from it.
    report: told about every step. stop: asked before every step. Under `torchrun` each process takes its share of every batch.
    Raises DataError for other arrays, UsageError for a checkpoint of another net or recipe and for a loss that is not finite.
    """
    pictures(x, y)
    run = _Run(net, _optimiser(net, recipe), x, y, recipe, World.joined())
    lengths = [max(1, round(phase.epochs * (len(x) // recipe.batch))) for phase in recipe.phases]
    kept = Kept(checkpoint, net, run.optimiser, recipe, run.world)
    at, step = kept.restore(lambda: _teacher(run))
    run.teacher = kept.teacher
    losses: list[float] = list(kept.losses)
    started, begun, saved = time.monotonic(), sum(lengths[:at]) + step, time.monotonic()
    for index in range(at, len(lengths)):
        phase = recipe.phases[index]
        if step == 0:
            _enter(run, phase)
        for step in range(step, lengths[index]):  # noqa: B020 - goes on from the checkpoint's step
            if run.world.agree(stop()):
                kept.save(index, step, losses, run.teacher)
                return False
            losses = [*losses[-99:], _step(run, phase, index, step, lengths[index])]
            done = sum(lengths[:index]) + step + 1
            left = (time.monotonic() - started) / (done - begun) * (sum(lengths) - done)
            if report and run.world.rank == 0:
                report(Progress(phase.name, step + 1, lengths[index], float(np.mean(losses)), left))
            if time.monotonic() - saved > EVERY_S:
                kept.save(index, step + 1, losses, run.teacher)
                saved = time.monotonic()
        step = 0
        kept.save(index + 1, 0, losses, run.teacher)
    net.eval()
    return True


def _enter(run: _Run, phase: Phase) -> None:
    """What happens before a phase's first step."""
    if phase.sort_first and isinstance(run.net, Supernet):
        sort_channels(run.net)
        run.optimiser.state.clear()  # its momenta belong to the channels' old places
    if phase.teacher == "frozen" and run.teacher is None:
        run.teacher = _teacher(run)


def _teacher(run: _Run) -> nn.Module:
    """A copy of the net as it is, never trained again; in training mode, for its statistics are those of a batch."""
    teacher = copy.deepcopy(run.net)
    if isinstance(teacher, Supernet):
        teacher.set_active(largest(teacher.ladder))
    return teacher.requires_grad_(False).train()


def _step(run: _Run, phase: Phase, index: int, step: int, steps: int) -> float:
    """One step; the loss that is told."""
    recipe, seed = run.recipe, (run.recipe.seed, index, step)
    for group in run.optimiser.param_groups:
        group["lr"] = _rate(phase.rate, step / steps, recipe.warm)
    rows = run.world.share(_rows(len(run.x), recipe, index, step))
    x = to_input(augmented(run.x[rows], recipe.shift, np.random.default_rng((*seed, run.world.rank)))).to(run.device)
    y = torch.from_numpy(run.y[rows].astype(np.int64)).to(run.device)
    run.net.train()
    run.optimiser.zero_grad(set_to_none=True)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        told = _largest(run, phase, x, y) if phase.teacher != "frozen" else _frozen(run, phase, x, y, Random(repr(seed)))
        if phase.teacher == "in-place":
            _others(run, phase, x, told[1], Random(repr(seed)))
    run.world.average(run.net)
    run.optimiser.step()
    if not np.isfinite(told[0]):
        from sdk.errors import UsageError

        raise UsageError(f"the loss of step {step + 1} in phase {phase.name} is {told[0]}; train with a smaller rate than {phase.rate:g}")
    return told[0]


def _largest(run: _Run, phase: Phase, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The largest subnet by the labels: (loss, its answers as probabilities)."""
    if isinstance(run.net, Supernet):
        run.net.set_active(largest(phase.ladder))
    logits = run.net(resized(x, phase.ladder.resolutions[-1])).float()
    loss = F.cross_entropy(logits, y, label_smoothing=run.recipe.smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), logits.detach().softmax(1)


def _others(run: _Run, phase: Phase, x: Tensor, answers: Tensor, random: Random) -> None:
    """The smallest and random subnets by the largest's answers."""
    for subnet in [smallest(phase.ladder), *(sample(phase.ladder, random) for _ in range(phase.subnets))]:
        _soft(_logits(run.net, subnet, x), answers).backward()  # type: ignore[no-untyped-call]


def _frozen(run: _Run, phase: Phase, x: Tensor, y: Tensor, random: Random) -> tuple[float, Tensor]:
    """Random subnets by the labels and the finished net's answers in equal parts: (mean loss, the answers)."""
    if run.teacher is None:
        raise ValueError("a phase with a frozen teacher has none")
    with torch.no_grad():
        answers = run.teacher(resized(x, phase.ladder.resolutions[-1])).float().softmax(1)
    told = 0.0
    for subnet in (sample(phase.ladder, random) for _ in range(max(1, phase.subnets))):
        logits = _logits(run.net, subnet, x)
        loss = F.cross_entropy(logits, y, label_smoothing=run.recipe.smoothing) + _soft(logits, answers)
        loss.backward()  # type: ignore[no-untyped-call]
        told += loss.item() / max(1, phase.subnets)
    return told, answers


def _logits(net: nn.Module, subnet: Subnet, x: Tensor) -> Tensor:
    if isinstance(net, Supernet):
        net.set_active(subnet)
    logits: Tensor = net(resized(x, subnet.resolution))
    return logits.float()


def _soft(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy against probabilities."""
    return -(answers * logits.log_softmax(1)).sum(1).mean()


def _rows(count: int, recipe: Recipe, index: int, step: int) -> np.ndarray:
    """The step's rows of the data."""
    per_epoch = max(1, count // recipe.batch)
    epoch, at = divmod(step, per_epoch)
    return order(count, recipe.seed, 1000 * index + epoch)[at * recipe.batch : (at + 1) * recipe.batch]


def _rate(peak: float, done: float, warm: float) -> float:
    """Linear up over the first share `warm`, then a cosine down to zero. done: share of the phase, [0, 1)."""
    return peak * done / warm if done < warm else peak * 0.5 * (1 + float(np.cos(np.pi * (done - warm) / (1 - warm))))


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    named = list(_named(net))
    groups = [
        {"params": [p for name, p in named if p.ndim > 1 and ".transforms." not in name], "weight_decay": recipe.decay},
        {"params": [p for name, p in named if p.ndim <= 1 or ".transforms." in name], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


def _named(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    yield from ((name, p) for name, p in net.named_parameters() if p.requires_grad)
