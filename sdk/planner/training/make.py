"""From a calibrated program and a wish to a `TrainingPlan`: micro-batch, choices, predictions, the curve, and mends that were tried."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UsageError
from sdk.planner.records import Mend
from sdk.planner.training import kept
from sdk.planner.training.choose import Chosen, choose, curve, peak_of, smallest
from sdk.planner.training.fronts import Joint, Option
from sdk.planner.training.options import AUTO, EPS_GRID, RankRule, Setting, ShareRule, cosine, layer_options, value
from sdk.planner.training.plan import CurvePoint, LayerPlan, StepTime, TrainingPlan
from sdk.planner.training.predict import predict_step
from sdk.planner.training.recomputed import joints, without_need
from sdk.planner.training.records import Choice, LayerRecord
from sdk.planner.training.sentences import decisions_of
from sdk.planner.training.spec import Training
from sdk.planner.training.walk import Walk
from sdk.planner.training.work import UNIT, Rates, Work, layer_class, layer_work

if TYPE_CHECKING:
    from targets.device import Device

_POINTS = 14
_Options = tuple[tuple[tuple[Option, ...], ...], tuple[Joint, ...]]  # of each layer alone, and of those chosen together


@dataclass(frozen=True)
class Case:
    """A calibrated program on a device. memory_bytes: what the device has. runtime_bytes: of the process before any model; basis says whence.

    share_rule: how layers that were named, and learn by fixed bases, share one eps; None: each keeps it by itself.
    """

    name: str
    device: Device
    walk: Walk
    records: tuple[LayerRecord, ...]
    rank_rule: RankRule = field(repr=False)
    memory_bytes: int = 0
    runtime_bytes: int = 0
    rates: Rates | None = None
    chunk: int = 8
    fixed_batch: int = 0
    basis: str = ""
    share_rule: ShareRule | None = field(default=None, repr=False)

    @property
    def fixed_bytes(self) -> int:
        """There all the time, whatever learns: the runtime, and the model's weights."""
        return self.runtime_bytes + self.walk.weight_bytes


@dataclass(frozen=True)
class Solved:
    """The best choices for a wish, or the smallest there are where nothing fits; `least_bytes` is the smallest feasible budget."""

    setting: Setting
    rows: tuple[tuple[Option, ...], ...]
    joints: tuple[Joint, ...]
    chosen: Chosen
    fits: bool
    least_bytes: int

    @property
    def parts(self) -> int:
        """Micro-batches of one update."""
        return -(-self.setting.training.batch // self.setting.batch)


def make_training_plan(case: Case, training: Training, **about: Any) -> TrainingPlan:
    """The plan. `about`: model, program, calibration, threads, decisions as `TrainingPlan` has them.

    Never raises for a budget that is too small; raises UsageError for layers that are not there.
    """
    budget = budget_of(case, training)
    solved = solve(case, training, budget)
    setting, choices = solved.setting, tuple(o.choice for o in solved.chosen.options)
    sizes, moment = predicted(case, setting, choices)
    whole, fits = full_value(case), sum(sizes.values()) <= budget
    decisions = (*about.pop("decisions", ()), *decisions_of(case, training, solved, budget))
    return TrainingPlan(
        name=case.name, device=case.device, training=training, micro_batch=setting.batch, layers=tuple(_rows(case, solved, whole)), bytes=sizes,
        moment=moment, budget_bytes=budget, smallest_bytes=solved.least_bytes, gain=solved.chosen.value / whole, curve=_curve(case, solved, whole),
        step_time=_time(case, training, solved), decisions=decisions, mends=() if fits else tuple(_mends(case, training, budget, solved)),
        basis=case.basis, **about,
    )  # fmt: skip


def budget_of(case: Case, training: Training) -> int:
    """Bytes that training may take: what was asked for, but never more than the device has."""
    return min(training.budget_bytes or case.memory_bytes, case.memory_bytes)


def solve(case: Case, training: Training, budget: int) -> Solved:
    """The most valuable choices within the budget; else the smallest choice there is.

    The largest micro-batch that comes within a thousandth of the best gain is taken: fewer passes are faster.
    """
    wanted = wanted_layers(case.records, training.layers)
    tried: list[tuple[Setting, _Options, Chosen | None, Chosen]] = []
    for batch in _micro_batches(case, training):
        setting = _setting(case, training, batch)
        rows, together = layer_options(setting, wanted), joints(setting, wanted)
        costs = (case.fixed_bytes, setting.prefix_bytes, _after(setting))
        quick = choose(rows, budget, *costs, quick=True, joints=together)
        tried.append((setting, (rows, together), quick, smallest(rows, *costs, joints=together)))
        if tried[-1][2] is not None and tried[-1][2].value >= (1 - 1e-9) * _most(rows):
            break
    least = min(_walked(case, row[0], row[3]) for row in tried)
    fitting = [row for row in tried if row[2] is not None]
    if not fitting:
        setting, options, _, chosen = min(tried, key=lambda row: _walked(case, row[0], row[3]))
        return Solved(setting, *options, chosen, False, least)
    best = max(row[2].value for row in fitting if row[2] is not None)
    setting, options, quick, _ = next(row for row in fitting if row[2] is not None and row[2].value >= (1 - 1e-3) * best)
    costs = (case.fixed_bytes, setting.prefix_bytes, _after(setting))
    exact = choose(options[0], budget, *costs, joints=options[1])
    return Solved(setting, *options, without_need(setting, exact or _given(quick), options[1], budget, *costs), True, least)


def wanted_layers(records: tuple[LayerRecord, ...], asked: Any) -> frozenset[str] | None:
    """Names of the layers that must learn; None where the planner chooses. Raises UsageError for one that is not there."""
    names = [record.name for record in records]
    if not isinstance(asked, str):
        unknown = [name for name in asked if name not in names]
        if unknown or not asked:
            what = repr(unknown[0]) if unknown else "nothing"
            raise UsageError(f"training layers name {what}, and the model's layers are {', '.join(names)}; name some of these")
        return frozenset(asked)
    if asked == "auto":
        return None
    if asked in ("all", "classifier"):
        return frozenset(names if asked == "all" else names[-1:])
    if match := re.fullmatch(r"last(\d+)", asked):
        return frozenset(names[-max(1, int(match.group(1))) :])
    if asked in names:
        return frozenset([asked])
    raise UsageError(f"training layers {asked!r} are not known; give auto, all, classifier, last4 (any number), or names of layers")


def predicted(case: Case, setting: Setting, choices: tuple[Choice, ...]) -> tuple[dict[str, int], str]:
    """(bytes by class at the highest moment, which moment that is)."""
    step = predict_step(setting, choices)
    by_name = {record.name: record for record in case.records}
    learning = sum(kept.learning_bytes(by_name[c.layer], c) for c in choices)
    added = learning * setting.micro
    sizes = {
        "runtime": case.runtime_bytes, "weights": case.walk.weight_bytes, "trained": learning + sum(kept.still_bytes(by_name[c.layer], c) for c in choices),
        "optimiser": learning * setting.training.optimiser_copies + min(added, step.undo_bytes),
        "bases": sum(kept.constant_bytes(by_name[c.layer], c) for c in choices), "saved": step.kept_bytes,
        "undo": step.undo_bytes - min(added, step.undo_bytes), "transients": step.transient_bytes,
    }  # fmt: skip
    return sizes, step.at


def full_value(case: Case) -> float:
    """The value of training every layer exactly; what gains are shares of."""
    return sum(value(record, Choice(record.name)) for record in case.records) or 1.0


def _setting(case: Case, training: Training, batch: int) -> Setting:
    methods = AUTO if training.method == "auto" else (training.method,)
    grid = EPS_GRID if training.method == "auto" else (training.eps,)
    return Setting(
        case.walk, case.records, training, case.rank_rule, batch, batch < training.batch, chunk=case.chunk, rates=case.rates or UNIT, methods=methods,
        eps_grid=grid, shared=_shared(case, training),
    )  # fmt: skip


def _shared(case: Case, training: Training) -> Mapping[str, tuple[float, tuple[int, ...]]]:
    """How the layers that were named share the eps that was asked for, where all of them learn by fixed bases."""
    wanted = wanted_layers(case.records, training.layers)
    if case.share_rule is None or training.method != "fixed" or wanted is None:
        return {}
    return case.share_rule([record for record in case.records if record.name in wanted and record.spectra], training.eps)


def _micro_batches(case: Case, training: Training) -> Iterator[int]:
    """Sizes to try, the largest first."""
    if case.fixed_batch or training.micro_batch:
        yield case.fixed_batch or training.micro_batch
        return
    batch = training.batch
    while batch:
        yield batch
        batch //= 2


def _after(setting: Setting) -> int:
    """Alive when forward has ended: logits, their gradient, and what the loss keeps."""
    return setting.batch * (16 * setting.walk.classes + 8)


def _walked(case: Case, setting: Setting, chosen: Chosen) -> int:
    """The predicted peak of a selection: never above its price."""
    return sum(predicted(case, setting, tuple(o.choice for o in chosen.options))[0].values())


def _most(rows: tuple[tuple[Option, ...], ...]) -> float:
    return sum(max(o.value for o in options) for options in rows)


def _given(chosen: Chosen | None) -> Chosen:
    assert chosen is not None
    return chosen


def _rows(case: Case, solved: Solved, whole: float) -> Iterator[LayerPlan]:
    for i, (record, option) in enumerate(zip(case.records, solved.chosen.options, strict=True)):
        c = option.choice
        reached = i >= solved.chosen.start
        seconds = option.first_step_s if i == solved.chosen.start else option.step_s
        yield LayerPlan(
            c, record, option.saved_bytes if reached else 0, option.constant_bytes, kept.learning_bytes(record, c),
            seconds * solved.parts if case.rates is not None and reached else None, option.value / whole,
            cosine(record, c) if option.trains and c.method != "bias" else 0.0,
        )  # fmt: skip


def _time(case: Case, training: Training, solved: Solved) -> StepTime | None:
    """The update's time, where the device's rates are known."""
    if case.rates is None:
        return None
    seconds = step_seconds(solved.setting, tuple(o.choice for o in solved.chosen.options)) * solved.parts
    return StepTime(seconds, case.rates.error, case.rates.basis)


def step_seconds(setting: Setting, choices: tuple[Choice, ...]) -> float:
    """Estimated time of one micro-batch: the frozen part forward, the trained part forward and back."""
    chosen = {c.layer: c for c in choices if c.method != "freeze"}
    start = next(i for i, record in enumerate(setting.records) if record.name in chosen)
    total = 0.0
    for i, record in enumerate(setting.records):
        if i < start:
            moved = Work(moved_bytes=8.0 * record.output_size * setting.batch)
            total += setting.rates.seconds(layer_class(record), layer_work(record, Choice(record.name, "freeze"), setting.batch, True) + moved)
        else:
            option = setting.option(i, chosen.get(record.name, Choice(record.name, "freeze")))
            total += option.first_step_s if i == start else option.step_s
    return total


def _curve(case: Case, solved: Solved, whole: float) -> tuple[CurvePoint, ...]:
    """Gains over memory, from the smallest that trains anything to everything at its best."""
    setting = solved.setting
    rows, together = solved.rows, solved.joints
    costs = (case.fixed_bytes, setting.prefix_bytes, _after(setting))
    low = smallest(rows, *costs, joints=together).peak_bytes
    high = peak_of([max(options, key=lambda o: o.value) for options in rows], *costs)
    extra = np.geomspace(1024, max(high - low, 2048), _POINTS)
    found = curve(rows, [low, *(low + int(e) for e in extra)], *costs, together)
    return tuple(CurvePoint(c.peak_bytes, c.value / whole, sum(o.trains for o in c.options)) for c in found)


def _mends(case: Case, training: Training, budget: int, solved: Solved) -> Iterator[Mend]:
    """Changes that were planned with, those that fit and gain most first; then the budget that would do."""
    found = []
    for text, changed in _changes(training):
        tried = solve(case, changed, budget)
        if tried.least_bytes < solved.least_bytes:
            fits, peak = tried.least_bytes <= budget, _walked(case, tried.setting, tried.chosen)
            verdict = f"fits, with {peak:,} bytes" if fits else f"still needs {tried.least_bytes:,} bytes"
            found.append((fits, tried.chosen.value, Mend(f"{text}: {verdict}", fits, peak, 0, {"training": changed})))
    for _, _, mend in sorted(found, key=lambda row: (not row[0], -row[1] if row[0] else row[2].ram_bytes)):
        yield mend
    least = solved.least_bytes
    enough = least <= case.memory_bytes
    where = "" if enough else f", which {case.device.name} does not have"
    text = f"give a budget of {least:,} bytes, the smallest that trains what was asked{where}"
    yield Mend(text, enough, least, 0, {"training": replace(training, budget=least)})


def _changes(training: Training) -> Iterator[tuple[str, Training]]:
    """Changes worth trying, and the sentence of each."""
    if training.optimiser == "momentum":
        yield "train without momentum (optimiser='sgd')", replace(training, optimiser="sgd")
    if training.micro_batch > 1:
        yield "let the planner split the batch (micro_batch=0)", replace(training, micro_batch=0)
    if training.method not in ("auto", "bias"):
        yield "let the planner choose the methods (method='auto')", replace(training, method="auto")
    if training.layers not in ("auto", "classifier"):
        yield "let the planner choose the layers (layers='auto')", replace(training, layers="auto")
    if training.layers != "auto" and training.method != "auto":
        yield "let the planner choose layers and methods (layers='auto', method='auto')", replace(training, layers="auto", method="auto")
    least = replace(training, layers="auto", method="auto", optimiser="sgd", micro_batch=0)
    if training.optimiser == "momentum" and (training.layers, training.method) != ("auto", "auto"):
        yield "give up momentum, and let the planner choose layers and methods (optimiser='sgd', layers='auto', method='auto')", least
    if training.factors != "int8":
        yield "hold compressed inputs in 8 bits (factors='int8')", replace(training, factors="int8")
