"""The same training by plain autograd, to compare with: batch norms frozen, the part before the first trained layer without a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.planner.training.spec import Training
from sdk.training.nn.data import checked_labels, checked_samples
from sdk.training.nn.meter import Meter, SavedBytes
from sdk.training.nn.program import TrainableProgram


class PlainTrainer:
    """torch's own SGD on `net`, which is changed in place: the weights of these layers and their biases learn, as `Trainer` has them learn."""

    def __init__(self, net: nn.Module, program: TrainableProgram, layers: Sequence[str], training: Training) -> None:
        self.net, self.program = net.eval(), program
        own = dict(net.named_parameters())
        keys = [key for name in layers for key in (program.by_name[name].weight, program.by_name[name].bias) if key is not None]
        for parameter in own.values():
            parameter.requires_grad_(False)  # nothing in front of the first of them has a graph then
        self.trained = [own[key].requires_grad_(True) for key in keys]
        momentum = training.momentum if training.optimiser == "momentum" else 0.0
        self._optimiser = torch.optim.SGD(self.trained, training.learning_rate, momentum)
        self._meter = Meter([*_tensors(net)])

    def step(self, x: Any, y: Any) -> float:
        """One update on samples [N, ...] with labels [N]; the loss before it."""
        x = checked_samples(x, self.program)
        self._optimiser.zero_grad()
        with self._meter.watching():
            loss = F.cross_entropy(self.net(x), checked_labels(y, x.shape[0], self.program.classes))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return float(loss.detach())

    def saved_bytes(self) -> SavedBytes:
        """Bytes held for backward in the last step."""
        return self._meter.saved()


def _tensors(net: nn.Module) -> Iterable[Tensor]:
    yield from net.parameters()
    yield from net.buffers()
