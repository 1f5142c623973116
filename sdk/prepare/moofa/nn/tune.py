"""A subnet learns somebody's own classes: its classifier alone, solved as a convex problem, or everything, by a short training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sdk.errors import UsageError
from sdk.prepare.moofa.nn.data import batches, pictures
from sdk.prepare.moofa.nn.norm import PICTURES, reestimate
from sdk.prepare.moofa.nn.plain import SubnetModule
from sdk.prepare.moofa.nn.recipe import Phase, Recipe, narrowed
from sdk.prepare.moofa.nn.train import Report, train

WHAT = ("head", "all")


@dataclass(frozen=True)
class Tuning:
    """How a subnet learns new data. what: "head", only the classifier, or "all"; epochs, rate and batch count for "all"."""

    what: str = "head"
    epochs: float = 10
    rate: float = 0.02
    batch: int = 64
    decay: float = 1e-3  #: on the head's weights, times their sum of squares over two
    seed: int = 0

    def __post_init__(self) -> None:
        if self.what not in WHAT:
            raise UsageError(f"what to tune is {self.what!r}, which is not known; choose from {', '.join(WHAT)}")
        if self.epochs <= 0 or self.rate <= 0 or self.batch < 1 or self.decay < 0:
            raise UsageError(f"epochs {self.epochs:g}, rate {self.rate:g} and batch {self.batch} must be positive, decay {self.decay:g} not negative")


def tune(
    net: SubnetModule, x: np.ndarray, y: np.ndarray, tuning: Tuning, report: Report | None = None, stop: Callable[[], bool] = lambda: False
) -> SubnetModule:
    """A net for the classes 0..max(y) that learned from uint8 pictures x [n, H, W, 3] and labels y [n]; `net` stays as it is.

    Its batch-norm statistics become those of the new pictures. `stop` ends a tuning of everything early, with what was learned.
    Raises DataError for other arrays and UsageError where there is but one class.
    """
    pictures(x, y)
    classes = int(y.max()) + 1
    if classes < 2:
        raise UsageError(f"all {len(y)} labels are {y.max()}; a classifier needs pictures of two classes at least")
    made = with_classes(net, classes)
    side = net.subnet.resolution
    reestimate(made, batches(x, side, count=PICTURES))
    fit_head(made, x, y, tuning.decay)
    if tuning.what == "all":
        ladder = replace(narrowed(net.ladder), resolutions=(side,))
        batch = min(tuning.batch, len(x))
        train(made, x, y, Recipe((Phase("tuning", tuning.epochs, tuning.rate, ladder, 0, "labels"),), batch=batch, seed=tuning.seed), report=report, stop=stop)
        reestimate(made, batches(x, side, count=PICTURES))
    return made.eval()


def with_classes(net: SubnetModule, classes: int) -> SubnetModule:
    """A copy of the net whose classifier, now zero, tells `classes` classes."""
    made = copy.deepcopy(net)
    made.classifier = nn.Linear(made.classifier.in_features, classes)
    nn.init.zeros_(made.classifier.weight)
    nn.init.zeros_(made.classifier.bias)
    made.classes = classes
    return made.eval()


def fit_head(net: SubnetModule, x: np.ndarray, y: np.ndarray, decay: float) -> None:
    """Solve the classifier: softmax cross-entropy on the features plus decay / 2 times its weights squared, by L-BFGS to the end."""
    inner, side = net.classifier, net.subnet.resolution
    net.classifier = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        features = torch.cat([net(batch) for batch in batches(x, side)])
    net.classifier = inner
    mean, spread = features.mean(0), features.std(0, unbiased=False).clamp_min(1e-6)
    weight, bias = _solve((features - mean) / spread, torch.from_numpy(y.astype(np.int64)), net.classes, decay)
    with torch.no_grad():
        inner.weight.copy_(weight / spread)
        inner.bias.copy_(bias - (weight / spread) @ mean)


def _solve(features: Tensor, labels: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """(weights [classes, F], biases [classes]) of the best linear classifier of features [n, F]."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = nn.functional.cross_entropy(features @ weight.T + bias, labels) + decay / 2 * (weight**2).sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(loss)  # type: ignore[arg-type, no-untyped-call, unused-ignore]
    return weight.detach(), bias.detach()
