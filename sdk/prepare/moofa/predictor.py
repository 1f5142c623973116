"""How accurate a subnet will be, from a few that were measured: ridge regression on one-hots, with how sure it is.

Every slot has a column for each kernel and each expansion (all zero where the subnet does not use the slot, which is how depth is
seen), and the input's side has one for each resolution. On the published measurements of MOOFA's and OFA's subnets this closed form
ranks as well as the usual network of three layers of 400, from a tenth of the measurements. Two things are added: the logarithm of the subnet's
work with its square, as accuracy bends with size, and every one-hot times that logarithm, as a choice is worth more in one size of net than in another.
On a supernet trained for a few epochs (CIFAR-10, 304 measured subnets, 150 of them learned from) they bring the error from 0.84 points to 0.52.
What it tells is held within the measured range, which it would leave at the ends of the space; the raw value is there to rank by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdk.errors import DataError, UsageError
from sdk.prepare.moofa.devices import work
from sdk.prepare.moofa.space import Ladder, Subnet, active, largest, smallest

#: Penalties that leave-one-out chooses among.
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: Fewer measurements than this say nothing.
FEWEST = 8
#: Scales of the added columns beside the one-hots' 1: the larger, the less the ridge holds a column's weight back.
SPREAD, BENT, TILTED = 2.0, 1.0, 0.5


def width(ladder: Ladder) -> int:
    """Columns of `features`: 124 for the published ladders."""
    return ladder.slots * (len(ladder.kernels) + len(ladder.expansions)) + len(ladder.resolutions)


def features(ladder: Ladder, subnets: Sequence[Subnet]) -> np.ndarray:
    """One-hots [n, width] float64 of n subnets: slot by slot kernels and then expansions, last the resolutions."""
    kernels = {value: i for i, value in enumerate(ladder.kernels)}
    expansions = {value: len(kernels) + i for i, value in enumerate(ladder.expansions)}
    sides = {value: ladder.slots * (len(kernels) + len(expansions)) + i for i, value in enumerate(ladder.resolutions)}
    step = len(kernels) + len(expansions)
    columns = [
        [*(c for s in active(ladder, net) for c in (s * step + kernels[net.kernels[s]], s * step + expansions[net.expansions[s]])), sides[net.resolution]]
        for net in subnets
    ]
    x = np.zeros((len(subnets), width(ladder)))
    for row, used in enumerate(columns):
        x[row, used] = 1.0
    return x


def columns(ladder: Ladder, subnets: Sequence[Subnet]) -> np.ndarray:
    """What the ridge is on: `features`, log work and its square, features times log work; [n, 2 width + 2] float64."""
    ends = [np.log(work(ladder, end(ladder)).macs) for end in (smallest, largest)]
    size = np.log([work(ladder, net).macs for net in subnets]).reshape(-1, 1)
    size = SPREAD * (2 * (size - ends[0]) / max(ends[1] - ends[0], 1e-9) - 1)  # [n, 1] from -SPREAD, the smallest subnet, to SPREAD, the largest
    x = features(ladder, subnets)
    return np.hstack([x, BENT * size, BENT * size**2, TILTED * size * x])


@dataclass(frozen=True)
class Predictor:
    """A fitted ridge; accuracies are shares in [0, 1] or percent, as they were measured.

    The weights' prior is normal, so every prediction has a standard deviation: that of the mean of many measurements of this subnet, without
    the noise of a single one.
    """

    ladder: Ladder
    centre: np.ndarray  #: mean of the columns [2 width + 2]
    mean: float  #: of the accuracies
    weights: np.ndarray  #: [2 width + 2]
    covariance: np.ndarray  #: of the weights [2 width + 2, 2 width + 2]
    penalty: float  #: the ridge's
    noise: float  #: standard deviation of a measurement about the prediction
    count: int  #: measurements behind it
    lowest: float  #: measured
    highest: float  #: measured
    left_out: np.ndarray  #: each measurement as predicted by all the others [count]

    def score(self, subnets: Sequence[Subnet]) -> np.ndarray:
        """The prediction [n], unbounded: to rank by."""
        return self._rows(subnets) @ self.weights + self.mean

    def predict(self, subnets: Sequence[Subnet]) -> tuple[np.ndarray, np.ndarray]:
        """(accuracy [n] within what was measured, standard deviation [n])."""
        rows = self._rows(subnets)
        return np.clip(rows @ self.weights + self.mean, self.lowest, self.highest), self._deviation(rows, self.covariance)

    def pick(self, pool: Sequence[Subnet], count: int, optimism: float = 2.0) -> list[Subnet]:
        """The `count` of `pool` to measure next: high by prediction plus `optimism` standard deviations, one after the other.

        After each choice the deviations are those that will hold once it is measured (they do not depend on its accuracy), so the
        choices do not crowd in one place. Large `optimism` explores, 0 takes the best by prediction.
        """
        rows, covariance = self._rows(pool), self.covariance
        score, left, chosen = rows @ self.weights, np.ones(len(pool), bool), []
        for _ in range(min(count, len(pool))):
            value = np.where(left, score + optimism * self._deviation(rows, covariance), -np.inf)
            best = int(np.argmax(value))
            chosen.append(pool[best])
            left[best] = False
            covariance = _after(covariance, rows[best], self.noise)
        return chosen

    def _rows(self, subnets: Sequence[Subnet]) -> np.ndarray:
        return columns(self.ladder, subnets) - self.centre

    def _deviation(self, rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        spread = np.einsum("nf,fg,ng->n", rows, covariance, rows, optimize=True)
        return np.sqrt(np.maximum(spread, 0.0) + self.noise**2 / self.count)


def _after(covariance: np.ndarray, row: np.ndarray, noise: float) -> np.ndarray:
    """The weights' covariance once `row` is measured (Sherman and Morrison)."""
    along = covariance @ row
    changed: np.ndarray = covariance - np.outer(along, along) / (noise**2 + row @ along)
    return changed


def fit(ladder: Ladder, subnets: Sequence[Subnet], accuracy: Sequence[float] | np.ndarray, penalty: float | None = None) -> Predictor:
    """The predictor that n measurements give.

    penalty: the ridge's; None: the one of PENALTIES that predicts each measurement best from the others.
    Raises DataError for fewer than 8 measurements, for accuracies that are not finite and for lengths that differ.
    """
    y = np.asarray(accuracy, np.float64)
    if y.shape != (len(subnets),):
        raise DataError(f"{len(subnets)} subnets came with accuracies of shape {y.shape}; give one accuracy for each")
    if len(y) < FEWEST:
        raise DataError(f"a predictor needs {FEWEST} measured subnets or more and got {len(y)}; measure more")
    if not np.isfinite(y).all():
        raise DataError(f"the accuracy of subnet {int(np.argmin(np.isfinite(y)))} is not finite; measure it again or leave it out")
    if penalty is not None and not penalty > 0:
        raise UsageError(f"a ridge penalty of {penalty} is not possible; give one above 0, or None to have it chosen")
    x = columns(ladder, subnets)
    return _solve(ladder, x, y, penalty)


def _solve(ladder: Ladder, x: np.ndarray, y: np.ndarray, penalty: float | None) -> Predictor:
    """x [n, columns], y [n]. One decomposition serves every penalty."""
    centre, mean = x.mean(0), float(y.mean())
    u, s, vt = np.linalg.svd(x - centre, full_matrices=False)
    tried = {p: _left_out(u, s, y - mean, p) for p in (PENALTIES if penalty is None else (penalty,))}
    best = min(tried, key=lambda p: float(np.square(tried[p]).mean()))
    shrink = s / (s**2 + best)
    weights = vt.T @ (shrink * (u.T @ (y - mean)))
    free = max(1.0, len(y) - 1 - float((s * shrink).sum()))
    noise = max(float(np.sqrt(np.square(y - mean - (x - centre) @ weights).sum() / free)), 1e-9)
    inverse = np.eye(x.shape[1]) / best - vt.T @ np.diag(1 / best - 1 / (s**2 + best)) @ vt
    return Predictor(ladder, centre, mean, weights, noise**2 * inverse, best, noise, len(y), float(y.min()), float(y.max()), y - tried[best])


def _left_out(u: np.ndarray, s: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """What each measurement differs by from its prediction by all the others [n]; y [n] centred."""
    share = s**2 / (s**2 + penalty)
    fitted, own = u @ (share * (u.T @ y)), np.square(u) @ share + 1 / len(y)
    errors: np.ndarray = (y - fitted) / np.maximum(1 - own, 1e-9)
    return errors


def kendall_tau(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Kendall's tau-b of two rankings of the same n things, in [-1, 1]; ties count as ties. 0 where one ranks nothing.

    >>> kendall_tau([1, 2, 3, 4], [10, 20, 40, 30])
    0.6666666666666666
    """
    a, b = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(first, np.float64), np.asarray(second, np.float64)))
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def rmse(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """The root of the mean square of the differences."""
    return float(np.sqrt(np.square(np.asarray(first, np.float64) - np.asarray(second, np.float64)).mean()))
