"""Fewer layers: activations that do little are removed, the layers around them become one, and the network still knows its task.

    found = sdk.tlc.collapse(net, (x, y), budget={"latency_ratio": 0.7}, max_drop=1.0, device="stm32f746")
    print(found.report)                                    # layers, accuracy, latency and peak RAM, before and after
    plan = sdk.plan("stm32f746", sdk.load(found.model, example=x[:1]), calibration=x[:256])

Source: Liao et al., "Till the Layers Collapse: Compressing a Deep Neural Network through the Lenses of Batch Normalization Layers", AAAI 2025
(arXiv 2412.15077). What is different here stands in `sdk.prepare.tlc`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import EmbarqError, UsageError
from sdk.prepare.tlc.records import Budget, Figures, Report, Settings, budget_of

if TYPE_CHECKING:
    from torch import nn

    from sdk.planner.plan import Plan
    from sdk.prepare.tlc.nn.costs import Costs
    from sdk.prepare.tlc.nn.loop import Task
    from sdk.prepare.tlc.nn.resume import Standing
    from targets.device import Device

__all__ = ["Budget", "Collapsed", "Report", "Settings", "collapse"]
#: Of samples that the merged network is compared with the trained one on, and of those that ranges are calibrated on for the report.
COMPARED, CALIBRATED = 64, 64


@dataclass(frozen=True)
class Collapsed:
    """`model`: a plain torch module with fewer layers, ready for `sdk.load`. `removed`: activations that are gone, in the order they went;
    `merged`: for each merge the layers that became one, joined by "+". `report`: what it cost and saved."""

    model: nn.Module = field(repr=False)
    removed: tuple[str, ...]
    merged: tuple[str, ...]
    report: Report

    def __str__(self) -> str:
        return str(self.report)


def collapse(
    model: nn.Module, data: Any, budget: Budget | Any = None, max_drop: float | None = None, device: Device | str | None = None, *,
    augment: Callable[..., Any] | None = None, checkpoint: str | Path | None = None, measure: bool = True, name: str | None = None,
    progress: Callable[[str], None] | None = None, settings: Settings | None = None, **options: Any,
) -> Collapsed:  # fmt: skip
    """Remove activations from `model`, merge the layers around them, and train what is left; the given model stays as it is.

    model: a torch classifier, input [N, ...], output [N, classes], that torch.fx can trace. data: (inputs, labels), a tenth of which is held out
    to judge, or (inputs, labels, held-out inputs, held-out labels); uint8 inputs are read as value / 255.
    budget: what the network may take on the device: `Budget`, a mapping of its fields ({"latency_ratio": 0.7}, {"peak_ram": "64KiB"},
    {"removed": 8}), or bytes of peak RAM. max_drop: points of held-out accuracy that may be lost. One of both is needed; with both, what comes
    first ends it. device: a name or `Device`: merges are made only where its plan says they are faster and no bigger; None: by
    multiply-accumulates. augment: (batch, torch.Generator) -> batch, for training batches.
    checkpoint: a file to go on from after a kill at any moment, written after every epoch. measure: also run both networks on the emulated
    board, or on this computer. progress: called with one short line. options: fields of `Settings`.
    Ctrl-C returns the best network so far. Raises UsageError for a model with nothing to collapse, wrong options or data (DataError),
    DoesNotFit where no choice of layers meets the budget.
    """
    settings = _settings(settings, options)
    wanted = budget_of(budget)
    if wanted is None and max_drop is None:
        raise UsageError("nothing says how far to go; give budget={'latency_ratio': 0.7} or the like, or max_drop=1.0 points of accuracy, or both")
    if max_drop is not None and not 0 <= max_drop < 100:
        raise UsageError(f"max_drop {max_drop} is not possible; it is in points of accuracy, 0 or more")
    if not (hasattr(model, "state_dict") and callable(model)):
        raise UsageError(f"layers are removed from a torch module, and {type(model).__name__} is none; give the nn.Module")
    task, costs, standing = _begin(model, data, wanted, max_drop, device, augment, checkpoint, progress or (lambda _: None), settings)
    from sdk.prepare.tlc.nn.loop import run

    return _end(task, costs, run(task, standing), measure, name or type(model).__name__.lower())


def _settings(settings: Settings | None, options: dict[str, Any]) -> Settings:
    known = Settings.__dataclass_fields__
    for option in options:
        if option not in known:
            raise UsageError(f"collapse has no option {option!r}; choose from {', '.join(known)}")
    return replace(settings or Settings(), **options)


def _begin(
    model: nn.Module, data: Any, budget: Budget | None, max_drop: float | None, device: Device | str | None, augment: Any,
    checkpoint: str | Path | None, tell: Callable[[str], None], settings: Settings,
) -> tuple[Task, Costs, Standing]:  # fmt: skip
    """Everything that is decided before the first round, and where to go on from."""
    from sdk.prepare.tlc.nn.candidates import candidates
    from sdk.prepare.tlc.nn.costs import Costs
    from sdk.prepare.tlc.nn.evaluate import evaluate
    from sdk.prepare.tlc.nn.loop import Task
    from sdk.prepare.tlc.nn.network import Dense, Network
    from sdk.prepare.tlc.nn.result import example_of, frozen
    from sdk.prepare.tlc.nn.resume import Standing, fingerprint, load
    from sdk.prepare.tlc.nn.samples import samples_of
    from sdk.prepare.tlc.nn.trace import canonical, sites
    from sdk.prepare.tlc.nn.tune import Teacher

    samples = samples_of(data, settings.held_out, settings.seed, augment)
    calibration = samples.first(CALIBRATED)[0]
    dense = canonical(model, example_of(calibration))
    accuracy = evaluate(dense, *samples.held()).accuracy
    found = sites(dense)
    if not found:
        raise UsageError(f"{type(model).__name__} has no activation between layers that could be removed, so there is nothing to collapse; keep it as it is")
    costs = Costs(device, calibration.numpy(), counted if settings.cost == "counted" else None)
    options = candidates(dense, found, costs, settings.max_kernel, tell)
    path = None if checkpoint is None else Path(checkpoint)
    identity = "" if path is None else fingerprint(dense, samples, settings, budget, max_drop, costs.device.name)
    task = Task(
        Dense(dense, {site.name: site for site in found}, options.segments), options, samples, settings, budget, max_drop, accuracy, tell,
        path, identity, Teacher(frozen(dense), samples),
    )  # fmt: skip
    standing = Standing(Network(), Network()) if path is None or not path.exists() else load(path, identity)
    return task, costs, standing


def _end(task: Task, costs: Costs, standing: Standing, measure: bool, name: str) -> Collapsed:
    """The plain module and its report."""
    from sdk.prepare.tlc.criterion import pooled
    from sdk.prepare.tlc.nn.result import figures, finished, layers_of
    from sdk.prepare.tlc.nn.score import Importance
    from sdk.prepare.tlc.nn.statistics import agreement

    task.tell("merging layers")
    best = standing.best
    made = finished(task.dense, best, task.samples.held()[0][:COMPARED])
    found = tuple(task.dense.sites.values())
    x, y = task.samples.first(256)
    moments = Importance(task.dense.module, found, x, y, task.settings.rule, "energy").moments
    held = task.samples.held()
    rows: list[Figures] = []
    after = costs.plan(made.module, task.dense.module.meta["example"][0][0])
    for module, left, plan in ((task.dense.module, len(found), task.candidates.plan), (made.module, len(found) - len(best.removals), after)):
        rows.append(figures(module, left, costs, plan, held, _measured(plan, costs, module, task) if measure else {}))
    report = Report(
        name, costs.device.name, costs.basis, rows[0], rows[1], _ended(task, costs, standing.ended, rows[1]), standing.rounds,
        layers_of(task.dense, task.candidates.ops, best),
        best.merges, task.candidates.refused, pooled(agreement(task.dense.module, found, moments)), made.error,
        {**asdict(task.settings), "budget": None if task.budget is None else asdict(task.budget), "max_drop": task.max_drop},
    )  # fmt: skip
    return Collapsed(made.module, best.removed, best.merges, report)


def counted(plan: Plan) -> list[int]:
    """Instructions of every step of a microcontroller's plan on the emulated board. Raises ToolError where the compiler or the emulator is
    missing, DoesNotFit for a plan that is too large."""
    from sdk.artifact import compile_plan

    with compile_plan(plan).flash("emulator") as session:
        return [getattr(row, "instructions", None) or 0 for row in session.profile().rows]


def _ended(task: Task, costs: Costs, ended: str, after: Figures) -> str:
    """A budget is met when the plan of the whole network says so, to one per cent; the parts that it was chosen by may have promised more. What is
    timed differs from run to run by more than that."""
    latency, peak = task.latency_s, task.peak_bytes
    missed = (latency is not None and after.latency_s > 1.01 * latency) or (peak is not None and after.peak_bytes > peak)
    return "budget missed" if ended == "budget met" and missed and not costs.timed else ended


def _measured(plan: Any, costs: Costs, module: Any, task: Task) -> dict[str, Any]:
    """Instructions and arena on the emulated board, or seconds on this computer; nothing where the plan does not fit or a tool is missing."""
    from sdk.artifact import compile_plan
    from sdk.prepare.tlc.nn.costs import folded, timed_s

    if costs.device.kind != "mcu":
        return {"measured_latency_s": timed_s(folded(module), costs.example(task.dense.module.meta["example"][0][0]))} if costs.device.name == "host" else {}
    if not plan.fits:
        return {}
    task.tell(f"running on an emulated {costs.device.name}")
    try:
        artifact = compile_plan(plan)
        with artifact.flash("emulator") as session:
            instructions = getattr(session.profile(), "instructions", None)
    except EmbarqError as error:
        task.tell(f"not measured: {error}")
        return {}
    return {"measured_instructions": instructions, "measured_arena_bytes": artifact.manifest["cost"]["arena_bytes"]}
