"""Training between removals: SGD with momentum, a cosine down to zero, labels and the dense network's own answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sdk.errors import TrainingDiverged
from sdk.prepare.tlc.nn.evaluate import answers, distilled_loss, logits_of, pieces
from sdk.prepare.tlc.nn.samples import Samples, real
from sdk.prepare.tlc.records import Settings

Tell = Callable[[str], None]


class Teacher:
    """The dense network's answers to training batches. Samples that are never augmented are asked once, at the first batch."""

    def __init__(self, net: nn.Module, samples: Samples) -> None:
        self._net, self._samples = net, samples
        self._known: Tensor | None = None

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits [B, classes] for the batch x, which is the samples' `rows`."""
        if self._samples.augment is not None:
            return answers(self._net, x)
        if self._known is None:
            self._known = torch.cat([answers(self._net, real(self._samples.x[part])) for part in pieces(len(self._samples.x))])
        return self._known[rows]


@dataclass
class Tuning:
    """Where the training of a round stands; after each epoch it is what a checkpoint keeps. `momenta`: one tensor a trained parameter."""

    epoch: int = 0
    momenta: dict[str, Tensor] = field(default_factory=dict)


def tune(
    net: nn.Module, samples: Samples, teacher: Teacher | None, settings: Settings, epochs: int, number: int, tell: Tell,
    tuning: Tuning | None = None, after_epoch: Callable[[Tuning], None] | None = None,
) -> None:  # fmt: skip
    """Train `net` in place for what is left of `epochs`; number: of the round, which with the seed gives the order of samples.

    teacher: what the dense network answers, or None. after_epoch: told where the training stands, for a checkpoint.
    Raises TrainingDiverged where the loss is not finite.
    """
    tuning = tuning or Tuning()
    pictures = samples.x.dim() == 4
    if pictures:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(net, settings, tuning.momenta)
    per_epoch = samples.updates(settings.batch)
    started, first = time.perf_counter(), tuning.epoch
    for epoch in range(first, epochs):
        net.train()
        for i, (x, y, rows) in enumerate(samples.batches(settings.batch, 1000 * number + epoch)):
            x = x.contiguous(memory_format=torch.channels_last) if pictures else x  # convolutions train almost twice as fast so
            wanted = teacher(x, rows) if teacher is not None and settings.distill > 0 else None
            for group in optimiser.param_groups:
                group["lr"] = rate(epoch * per_epoch + i, epochs * per_epoch, settings.rate)
            loss = _update(net, optimiser, (x, y, wanted), settings)
            if i % 20 == 0:
                done = (epoch - first) * per_epoch + i + 1
                left = (time.perf_counter() - started) / done * ((epochs - first) * per_epoch - done)
                tell(f"round {number}: epoch {epoch + 1} of {epochs}, loss {loss:.3f}, {spoken(left)} left in this round")
        if after_epoch is not None:
            after_epoch(Tuning(epoch + 1, _momenta(net, optimiser)))
    net.eval()


def _optimiser(net: nn.Module, settings: Settings, momenta: Mapping[str, Tensor]) -> torch.optim.SGD:
    """SGD with momentum, gone on with from `momenta`; vectors (biases, norms) do not decay."""
    parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in parameters.values() if (p.ndim > 1) == decays], "weight_decay": settings.decay if decays else 0.0} for decays in (True, False)
    ]
    made = torch.optim.SGD([group for group in groups if group["params"]], settings.rate, settings.momentum, foreach=True)
    for name, p in parameters.items():
        if name in momenta:
            made.state[p]["momentum_buffer"] = momenta[name].clone()
    return made


def _momenta(net: nn.Module, optimiser: torch.optim.SGD) -> dict[str, Tensor]:
    found = {name: optimiser.state[p].get("momentum_buffer") for name, p in net.named_parameters()}
    return {name: value for name, value in found.items() if value is not None}


def _update(net: nn.Module, optimiser: torch.optim.SGD, batch: tuple[Tensor, Tensor, Tensor | None], settings: Settings) -> float:
    """One step on samples, labels and the teacher's answers; the loss before it."""
    x, y, wanted = batch
    loss = distilled_loss(logits_of(net, x, y), y, wanted, settings.distill, settings.temperature)
    if not bool(torch.isfinite(loss)):
        raise TrainingDiverged(f"the loss became {float(loss)} while training between removals; give a smaller rate than {settings.rate}")
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
    return float(loss.detach())


def rate(step: int, steps: int, peak: float) -> float:
    """Up over the first twentieth, for the network has just been changed, then a cosine down to zero."""
    warm = max(1, steps // 20)
    return peak * ((step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def spoken(seconds: float) -> str:
    """About how long, for a person."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
