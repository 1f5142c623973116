"""Loss, accuracy and the distance to a teacher, on arrays of samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import DataError
from sdk.prepare.tlc.nn.statistics import judging

BATCH = 250


@dataclass(frozen=True)
class Score:
    """Of a network on labelled samples: mean cross entropy, share of right answers."""

    loss: float
    accuracy: float


def evaluate(net: nn.Module, x: Tensor, y: Tensor) -> Score:
    """x [N, ...], y int64 [N]; the network in evaluation mode. Raises DataError for no samples or outputs that are not [N, classes]."""
    if not len(x):
        raise DataError("there are no samples to judge the network by; give at least one")
    loss, right = 0.0, 0
    with judging(net):
        for rows in pieces(len(x)):
            logits = logits_of(net, x[rows], y)
            loss += float(F.cross_entropy(logits, y[rows], reduction="sum"))
            right += int((logits.argmax(1) == y[rows]).sum())
    return Score(loss / len(x), right / len(x))


def logits_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """[B, classes]. Raises DataError where the network's output is something else, or has fewer classes than there are labels."""
    logits = net(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(f"the network's output is {found} and not [batch, classes]; wrap it so that it returns the logits of a class each")
    if len(y) and int(y.max()) >= logits.shape[1]:
        raise DataError(f"label {int(y.max())} is not a class of the model, which tells {logits.shape[1]} apart; give labels from 0 to {logits.shape[1] - 1}")
    return logits


def pieces(count: int, size: int = BATCH) -> Iterator[slice]:
    """Slices of `size` rows over `count`."""
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def distilled_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, weight: float, temperature: float) -> Tensor:
    """(1 - weight) cross entropy + weight T^2 KL(teacher || student) at temperature T; without a teacher the cross entropy alone.

    logits, teacher: [B, classes]; labels: int64 [B]. Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531).
    """
    hard = F.cross_entropy(logits, labels)
    if teacher is None or weight == 0:
        return hard
    soft = F.kl_div(F.log_softmax(logits / temperature, 1), F.log_softmax(teacher / temperature, 1), reduction="batchmean", log_target=True)
    return (1 - weight) * hard + weight * temperature**2 * soft


def divergence(wanted: Tensor, found: Tensor) -> float:
    """Mean KL divergence in nats of two networks' logits [N, classes] on the same samples: 0 for equal answers."""
    kind = {"reduction": "batchmean", "log_target": True}
    return float(F.kl_div(F.log_softmax(found.double(), 1), F.log_softmax(wanted.double(), 1), **kind))  # type: ignore[arg-type]


def answers(net: nn.Module, x: Tensor) -> Tensor:
    """Logits [N, classes] of all samples, in evaluation mode: a teacher that does not change need not be asked twice."""
    with judging(net):
        return torch.cat([net(x[rows]) for rows in pieces(len(x))])
