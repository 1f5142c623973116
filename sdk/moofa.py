"""Networks made for a device's memory: a supernet is trained once, and each device gets the subnet that fits it best.

    supernet = sdk.moofa.supernet("cifar10")                                     # one that ships with the package
    found = sdk.moofa.search(supernet, "stm32f746", "16KiB", (pictures, labels))
    print(found)                                                                 # what was chosen, what it takes, how accurate it is
    plan = sdk.plan("stm32f746", found.model(), calibration=...)

Sources: Girard et al., "Memory-Optimized Once-For-All Network" (arXiv 2409.05900), Cai et al., "Once-for-All" (arXiv 1908.09791). What is
different here: limits are bytes and milliseconds as the planner of this very device computes them, several at once, and the predictor is a ridge
that says how sure it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import UsageError
from sdk.planner.training.spec import Training
from sdk.prepare.moofa.budget import Budget, as_budget, smallest_budget
from sdk.prepare.moofa.find import Effort, Machines, Progress, Report, divided, find
from sdk.prepare.moofa.found import SearchResult, ready
from sdk.prepare.moofa.ladders import LADDERS
from sdk.prepare.moofa.space import Ladder, Subnet
from sdk.prepare.moofa.widths import widths
from targets.device import Device, load_device

if TYPE_CHECKING:
    from sdk.prepare.moofa.nn.elastic import Supernet

__all__ = ["LADDERS", "Budget", "Effort", "Ladder", "Progress", "SearchResult", "Subnet", "save", "search", "smallest_budget", "supernet", "widths"]


def supernet(source: str | Path | Ladder, classes: int = 10, seed: int = 0) -> Supernet:
    """A supernet: one that ships with the package ("cifar10"), one that `save` wrote (a path), or a new one with random weights of a `Ladder`.

    classes and seed are for a new one. Raises UsageError for a task that none ships for, ModelError for damaged files.
    """
    try:
        from sdk.prepare.moofa.nn import store
        from sdk.prepare.moofa.nn.elastic import Supernet
    except ImportError as error:
        raise UsageError('a supernet needs torch, which is not installed; pip install "embarq[torch]"') from error
    if isinstance(source, Ladder):
        return Supernet(source, classes, seed)
    if Path(source).with_suffix(".npz").exists():
        return store.load(source)[0]
    from sdk.prepare.moofa.shipped import shipped

    return shipped(str(source)).load()


def save(net: Supernet, path: str | Path, **facts: Any) -> None:
    """Write `path`.npz, the weights as float16, and `path`.json: the ladder, and `facts` that a reader should know (classes, data, recipe)."""
    from sdk.prepare.moofa.nn import store

    store.save(net, path, facts)


def search(
    supernet: Supernet, device: Device | str, budget: Budget | Mapping[str, Any] | int | str | None, data: Any, *, measure: int | None = None,
    effort: Effort | None = None, workers: int = 1, dask: str | None = None, cache: str | Path | None = None, log: str | Path | None = None,
    channels_last: bool = True, training: Training | None = None, seed: int | None = None, report: Report | None = None,
) -> SearchResult:  # fmt: skip
    """The subnet of `supernet` that is most accurate on `data` within `budget` on `device`.

    budget: `Budget`, its fields as a mapping, bytes of arena ("16KiB"), or None for all the device has free. Several limits may be given at
    once; arena, flash, latency and training memory are the planner's. A computer is given macs.
    data: (pictures uint8 [n, H, W, 3], labels [n]) that the supernet was not trained on, a fifth of which only gives batch-norm statistics; or four
    arrays, of which the first two give statistics and the last two judge.
    measure: subnets that are measured to learn from (150); `effort` has more of the kind. seed: of everything random.
    workers: processes that measure; dask: a scheduler's address instead; cache: a folder in which measurements are kept, so that a search
    goes on after a kill, and another budget's begins with them. More than one worker needs a script under `if __name__ == "__main__":`.
    log: a folder for `search.json` and `front.html`. report: told after each measurement, time left included.
    channels_last: whether the device gets pictures [1, R, R, 3], as cameras give them, or [1, 3, R, R].
    training: how the classifier is to learn on the device, where the budget limits `training_bytes`.
    Raises DoesNotFit where no subnet keeps the budget, at once, with the smallest that one does; DataError and UsageError for wrong data and
    wishes, LinkError for a dead scheduler.
    """
    board = load_device(device)
    from sdk.prepare.moofa.devices import pricing, within
    from sdk.prepare.moofa.nn.elastic import Supernet as Kind
    from sdk.prepare.moofa.nn.measure import Bench

    if not isinstance(supernet, Kind):
        raise UsageError(f"a search needs a supernet and got a {type(supernet).__name__}; make one with sdk.moofa.supernet(...)")
    effort = effort or Effort()
    effort = effort if measure is None else replace(effort, measure=measure)
    effort = effort if seed is None else replace(effort, evolution=replace(effort.evolution, seed=seed))
    if log is not None:
        ready(log)
    limits = within(board, budget)
    costs = pricing(board, supernet.ladder, supernet.classes, limits, channels_last, training)
    bench = Bench(copy.deepcopy(supernet).cpu(), *divided(data), threads=1 if workers > 1 or dask else 0)
    over = "" if budget is None else next(iter(as_budget(budget).limits))  # what the user cares for, not what the device has besides
    result = find(bench, board, costs, limits, effort, Machines(workers, dask, cache), report, channels_last, over)
    if log is not None:
        result.save(log)
    return result
