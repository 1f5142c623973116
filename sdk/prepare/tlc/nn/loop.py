"""The loop: remove what hurts least, solve the layers behind it by least squares, train a little, judge, write down; until the budget is met
or the accuracy has dropped as far as it may.

Source: "Till the Layers Collapse" (arXiv 2412.15077). Different here: what to remove is chosen by what it saves on the device; the network is
padded for its merges before it is trained, so that merging changes nothing; training is short and has the dense network as its teacher; gaps
are measured on many samples; the set of a round is limited, so that the harmful end of a crossing set does not come along.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import fx

from sdk.errors import DoesNotFit, TrainingDiverged
from sdk.prepare.tlc.choose import Option, Selection, choose, crossing_set
from sdk.prepare.tlc.criterion import SCORES
from sdk.prepare.tlc.nn.candidates import Candidates, realised
from sdk.prepare.tlc.nn.evaluate import evaluate, pieces
from sdk.prepare.tlc.nn.network import Dense, build, values_of
from sdk.prepare.tlc.nn.resume import Standing, save
from sdk.prepare.tlc.nn.samples import Samples
from sdk.prepare.tlc.nn.score import Importance, Removal, by_single
from sdk.prepare.tlc.nn.tune import Teacher, Tell, Tuning, tune
from sdk.prepare.tlc.records import Budget, Round, Settings


@dataclass(frozen=True)
class Task:
    """All that a collapse is given. `accuracy`: of the dense network on the held-out samples; `checkpoint`: where it is kept, or None."""

    dense: Dense
    candidates: Candidates
    samples: Samples
    settings: Settings
    budget: Budget | None
    max_drop: float | None
    accuracy: float
    tell: Tell
    checkpoint: Path | None = None
    model_id: str = ""
    teacher: Teacher | None = field(default=None, repr=False)

    @property
    def latency_s(self) -> float | None:
        """The budget's, in seconds."""
        return None if self.budget is None else self.budget.latency_s(self.candidates.cost.latency_s)

    @property
    def peak_bytes(self) -> int | None:
        """The budget's."""
        return None if self.budget is None else self.budget.peak_bytes(self.candidates.cost.peak_bytes)

    @property
    def count(self) -> int | None:
        """How many activations the budget wants gone."""
        return None if self.budget is None else self.budget.removed

    def keep(self, standing: Standing) -> Standing:
        """Write it to the checkpoint, where there is one."""
        if self.checkpoint is not None:
            save(self.checkpoint, standing, self.model_id)
        return standing


def run(task: Task, standing: Standing) -> Standing:
    """The collapse from `standing` to its end, one of `records.ENDS`. Ctrl-C, and training that diverges, end it with the best network so far.

    Raises DoesNotFit where no choice of layers meets the budget, before anything is trained; TrainingDiverged in the first round.
    """
    if not standing.rounds and standing.pending is None and task.budget is not None:
        _reachable(task)
    latest = standing
    try:
        while not latest.ended:
            for reached in _round(task, latest):
                latest = task.keep(reached)
        return polished(task, latest)
    except KeyboardInterrupt:
        return replace(latest, ended="asked to stop")
    except TrainingDiverged as error:
        if not latest.best.removals:
            raise
        task.tell(f"{error}; the network of before is kept")
        return replace(latest, ended="training diverged")


def polished(task: Task, standing: Standing) -> Standing:
    """The best network after `final_epochs` more of training, or as it was where they made it no better."""
    if not task.settings.final_epochs or not standing.best.removals:
        return standing
    module = build(task.dense, standing.best)
    before = evaluate(module, *task.samples.held()).accuracy
    tune(module, task.samples, task.teacher, task.settings, task.settings.final_epochs, len(standing.rounds) + 1, task.tell)
    after = evaluate(module, *task.samples.held()).accuracy
    task.tell(f"last training: accuracy {100 * before:.2f} % before, {100 * after:.2f} % after")
    return standing if after < before else replace(standing, best=replace(standing.best, values=values_of(module)))


def _reachable(task: Task) -> None:
    """Raises DoesNotFit where even the cheapest choice misses the budget."""
    choose(task.candidates.options, task.latency_s, task.peak_bytes, task.count)


def _round(task: Task, standing: Standing) -> Iterable[Standing]:
    """One round, as standings worth keeping: each is a place to go on from."""
    if standing.pending is None:
        if met(task, standing):
            yield replace(standing, ended="budget met")
            return
        if len(standing.rounds) >= task.settings.max_rounds:
            yield replace(standing, ended="rounds used up")
            return
        begun = _begin(task, standing)
        yield begun
        if begun.ended:
            return
        standing = begun
    module = build(task.dense, standing.now)
    kept: list[Standing] = []
    started = time.perf_counter()

    def after_epoch(tuning: Tuning) -> None:
        now = replace(standing.now, values=values_of(module))
        kept.append(task.keep(replace(standing, now=now, tuning=tuning)))

    settings = task.settings
    number = len(standing.rounds) + 1
    tune(module, task.samples, task.teacher, settings, settings.epochs, number, task.tell, standing.tuning, after_epoch)
    yield _judged(task, kept[-1] if kept else standing, module, time.perf_counter() - started)


def met(task: Task, standing: Standing) -> bool:
    """True when there is a budget and the network, with its merges made, is expected to be within it."""
    if task.budget is None:
        return False
    now = task.candidates.standing(standing.now.passing)
    return (
        (task.latency_s is None or now.latency_s <= task.latency_s * (1 + 1e-9))
        and (task.peak_bytes is None or now.peak_bytes <= task.peak_bytes)
        and (task.count is None or len(standing.now.removals) >= task.count)
    )


def _begin(task: Task, standing: Standing) -> Standing:
    """A round's removal: which activations, what stands there instead, the layers behind solved anew."""
    from sdk.prepare.tlc.nn.trace import sites

    number = len(standing.rounds) + 1
    task.tell(f"round {number}: measuring what each removal would cost")
    module = build(task.dense, standing.now).eval()
    left = [task.dense.sites[site.name] for site in sites(module) if site.name in task.dense.sites]
    if not left:
        return replace(standing, ended="nothing left")
    x, y = task.samples.first(task.settings.score_samples)
    importance = Importance(module, left, x, y, task.settings.rule, task.settings.measure)
    names = pick(task, standing, importance, [site.name for site in left])
    if not names:
        return replace(standing, ended="nothing left")
    known = {removal.site: removal for removal in standing.now.removals} | importance.replacements
    removals = tuple(known[name] for name in names)
    narrow = tuple(replace(removal, width=names[removal.site]) for removal in removals)
    merges = merges_of(task.candidates.standing(standing.now.without(narrow, ()).passing))
    now = standing.now.without(removals, merges)
    task.tell(f"round {number}: removing {', '.join(names)}")
    followers = {op for name in names for op in task.dense.sites[name].followers}
    early = followers & {source for removal in narrow if removal.width for source in task.dense.sites[removal.site].sources}
    made = refitted(task, build(task.dense, now).eval(), module, early)  # narrowed, they have other outputs than before
    made = refitted(task, narrowed(task, made, narrow), module, followers - early)
    now = replace(standing.now.without(narrow, merges), values=values_of(made))
    before = evaluate(made, *task.samples.held()).accuracy
    pending = {"removed": list(names), "expected_loss": importance(names), "accuracy_before_training": before}
    return replace(standing, now=now, pending=pending, tuning=Tuning())


def merges_of(selection: Selection) -> tuple[str, ...]:
    """Keys of the segments that a selection makes one operation."""
    return tuple(option.merged for option in selection.options if option.merged)


def narrowed(task: Task, made: fx.GraphModule, removals: Iterable[Removal]) -> fx.GraphModule:
    """With the middle of each pair of layers as wide as its removal has it."""
    from sdk.prepare.tlc.nn.narrow import narrow

    x, _ = task.samples.first(task.settings.refit_samples)
    for removal in removals:
        if removal.width:
            made = narrow(made, removal.site, removal.width, [x[rows] for rows in pieces(len(x), 128)])
    return made


def refitted(task: Task, made: fx.GraphModule, before: fx.GraphModule, ops: Iterable[str]) -> fx.GraphModule:
    """Least squares for linear operations that read removed activations, so that they give what they gave before."""
    if not task.settings.refit:
        return made
    from sdk.prepare.tlc.nn.refit import refit

    x, _ = task.samples.first(task.settings.refit_samples)
    batches = [x[rows] for rows in pieces(len(x), 128)]
    for op in sorted(ops, key=task.candidates.ops.index):
        made = refit(made, before, op, batches)
    return made


def pick(task: Task, standing: Standing, importance: Importance, left: Sequence[str]) -> dict[str, int]:
    """The activations of the next round, in the network's order, each with how many channels are to pass (0: as the rule has it); none when
    nothing is left that helps."""
    match task.settings.choice:
        case "greedy":
            return dict.fromkeys(crossing_set(by_single(importance, left), importance)[: _room(task, standing)], 0)
        case "random":
            order = np.random.default_rng((task.settings.seed, len(standing.rounds))).permutation(len(left))
            return {left[i]: 0 for i in sorted(order[: min(task.settings.per_round, _room(task, standing))])}
    return _by_cost(task, standing, importance)


def _room(task: Task, standing: Standing) -> int:
    """How many more may go before the budget's count is reached."""
    return 10**6 if task.count is None or task.latency_s or task.peak_bytes else max(1, task.count - len(standing.now.removals))


def _by_cost(task: Task, standing: Standing, importance: Importance) -> dict[str, int]:
    """The dynamic programme's choice for this round's share of the way, least harmful stretches first."""
    passing = standing.now.passing
    blind = task.settings.measure in SCORES  # the criterion cannot tell what narrowing costs
    done = [realised(o, passing) for o in task.candidates.options]
    open_ = [(o, is_done) for o, is_done in zip(task.candidates.options, done, strict=True) if is_done or not (o.keep and blind)]
    options = [replace(o, loss=0.0 if is_done else max(0.0, importance(o.removes, o.keep))) for o, is_done in open_]
    selection = _next_selection(task, standing, options)
    new = [o for o in selection.options if not realised(o, passing)] if selection is not None else []
    names: dict[str, int] = {}
    for option in sorted(new, key=lambda o: (o.loss, o.first)):
        more = {name: option.keep for name in option.removes if option.keep or name not in passing}
        if not names or len(names) + len(more) <= task.settings.per_round:
            names |= more
    return {name: names[name] for name in task.dense.sites if name in names}


def _next_selection(task: Task, standing: Standing, options: Sequence[Option]) -> Selection | None:
    """Towards the budget; where there is only a drop, a step less latency, and where none is to be had, a few activations fewer.

    None: nothing goes any further."""
    now = task.candidates.standing(standing.now.passing)
    aim = max(now.latency_s - task.settings.step * task.candidates.cost.latency_s, 0.0)
    fewer = len(standing.now.removals) + task.settings.per_round
    if task.budget is not None:
        latency = task.latency_s if task.latency_s is None else max(task.latency_s, aim)
        count = task.count if task.count is None else min(task.count, fewer)
        tries = [(latency, task.peak_bytes, count), (task.latency_s, task.peak_bytes, task.count)]
    else:
        slack = now.latency_s * (1 + 1e-9)
        tries = [(aim, None, None), (slack, None, fewer), (slack, None, len(standing.now.removals) + 1)]
    for latency, peak, count in tries:
        try:
            return choose(options, latency, peak, count)
        except DoesNotFit:
            continue
    return None


def _judged(task: Task, standing: Standing, module: fx.GraphModule, seconds: float) -> Standing:
    """The round written down; the best network is this one if it is within the drop, and the end if it is not."""
    assert standing.pending is not None
    accuracy = evaluate(module, *task.samples.held()).accuracy
    drop = 100 * (task.accuracy - accuracy)
    now = replace(standing.now, values=values_of(module))
    cost = task.candidates.standing(now.passing)
    done = Round(
        len(standing.rounds) + 1, tuple(standing.pending["removed"]), len(now.removals), float(standing.pending["expected_loss"]),
        float(standing.pending["accuracy_before_training"]), accuracy, drop, cost.latency_s, cost.peak_bytes, seconds,
    )  # fmt: skip
    over = task.max_drop is not None and drop > task.max_drop
    task.tell(f"round {done.number}: {done.removed_in_all} removed, accuracy {100 * accuracy:.2f} % ({drop:+.2f} points lost)")
    best = standing.best if over else now
    return Standing(now, best, (*standing.rounds, done), None, Tuning(), "drop reached" if over else "")
