"""What activations see on real data: moments of input and output, channel by channel, gathered over several batches in one pass.

They give the criterion where there is no batch norm, say how well the normal distribution foretells what is measured, and give the affine
function that replaces an activation with the least mean square error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx, nn

from sdk.errors import DataError
from sdk.prepare.tlc.criterion import Agreement, Channels

if TYPE_CHECKING:
    from sdk.prepare.tlc.nn.trace import Site

#: A channel of which the best straight line explains less is better off as a constant, which can be cut out of the network.
LEAST_EXPLAINED = 0.05


@dataclass(frozen=True)
class Moments:
    """Of an activation's input x and output y on `count` values a channel; all [C] float64."""

    count: int
    mean_x: np.ndarray
    var_x: np.ndarray
    mean_y: np.ndarray
    var_y: np.ndarray
    cov_xy: np.ndarray
    above: np.ndarray  # share of x > 0

    def channels(self) -> Channels:
        """The criterion's normal distribution, from these moments."""
        return Channels(self.mean_x, np.sqrt(self.var_x), "statistics")

    def line(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift) [C] of y ~ scale * x + shift with the least mean square error; scale 0 where x hardly tells y."""
        scale = np.where(self.var_x > 1e-12, self.cov_xy / np.maximum(self.var_x, 1e-12), 0.0)
        dull = scale * self.cov_xy <= LEAST_EXPLAINED * np.maximum(self.var_y, 1e-12)
        scale = np.where(dull, 0.0, scale)
        return scale, self.mean_y - scale * self.mean_x


class _Sums:
    """Running sums of one activation, [C] float64."""

    def __init__(self, channel_dim: int) -> None:
        self.channel_dim = channel_dim
        self.count = 0
        self.sums: Tensor | None = None  # [6, C]: x, x^2, y, y^2, x y, x > 0

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, y = (self._rows(t) for t in (inputs[0].detach(), output.detach()))
        found = torch.stack([x.sum(0), (x * x).sum(0), y.sum(0), (y * y).sum(0), (x * y).sum(0), (x > 0).double().sum(0)])
        self.sums = found if self.sums is None else self.sums + found
        self.count += x.shape[0]

    def _rows(self, t: Tensor) -> Tensor:
        """[values, C] float64."""
        return t.movedim(self.channel_dim, -1).reshape(-1, t.shape[self.channel_dim]).double()

    def moments(self) -> Moments:
        assert self.sums is not None
        x, xx, y, yy, xy, above = (self.sums / self.count).numpy()
        return Moments(self.count, x, np.maximum(xx - x * x, 0), y, np.maximum(yy - y * y, 0), xy - x * y, above)


def measure(module: nn.Module, sites: Sequence[Site], batches: Iterable[Tensor]) -> dict[str, Moments]:
    """Site name -> moments over all `batches` (each [B, ...]) with the module in evaluation mode. Raises DataError without a batch."""
    sums = {site.name: _Sums(site.channel_dim) for site in sites}
    handles = [module.get_submodule(name).register_forward_hook(hook) for name, hook in sums.items()]
    seen = 0
    try:
        with judging(module):
            for batch in batches:
                module(batch)
                seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise DataError("no batch was given to measure activations on; give some samples")
    return {name: found.moments() for name, found in sums.items()}


def criterion(module: fx.GraphModule, site: Site, moments: Moments) -> Channels:
    """Batch norm's beta and gamma where they describe what the activation sees, the measured mean and deviation where not."""
    from sdk.prepare.tlc.nn.trace import norm_parameters

    if site.kind != "bn":
        return moments.channels()
    beta, gamma = norm_parameters(module, site)
    return Channels(beta.numpy(), gamma.numpy(), "bn")


def agreement(module: fx.GraphModule, sites: Sequence[Site], found: dict[str, Moments]) -> tuple[Agreement, ...]:
    """Predicted against measured P(x > 0) of every site."""
    return tuple(Agreement(site.name, 1 - criterion(module, site, found[site.name]).below_zero, found[site.name].above) for site in sites)


@contextmanager
def judging(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of before comes back."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)
