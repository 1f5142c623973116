"""`fit`: from a device alone, or with some pictures, to a trained, compiled network that fits it. No training is needed for the shipped tasks.

A subnet of the shipped supernet is chosen by what the planner computes for this device and by the accuracy that a predictor expects; it is
taken out of the supernet, gets batch-norm statistics of its own, learns your classes where you give pictures, and is planned as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import DataError, DoesNotFit, UsageError
from sdk.prepare.moofa import predictor
from sdk.prepare.moofa.budget import Budget
from sdk.prepare.moofa.cost import Costs
from sdk.prepare.moofa.devices import pricing, within, work
from sdk.prepare.moofa.search import Evolution, evolve
from sdk.prepare.moofa.shipped import Shipped, shipped
from sdk.prepare.moofa.space import Subnet, largest
from targets.device import Device, load_device

if TYPE_CHECKING:
    from sdk.artifact import Artifact
    from sdk.prepare.moofa.nn.plain import SubnetModule

#: Of held-back pictures that the int8 network is judged on: its meaning in numpy takes milliseconds each.
JUDGED = 500
#: Of pictures that ranges are calibrated on.
CALIBRATED = 256
#: Chosen subnets that are planned whole, best first, until one fits.
FINALISTS = 8
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """A network made for a device, and how it was come by."""

    artifact: Artifact = field(repr=False)
    module: SubnetModule = field(repr=False)
    subnet: Subnet
    accuracy: float  #: share of right answers
    accuracy_of: str  #: what the accuracy is of, in words
    cost: dict[str, Any]  #: arena_bytes, flash_bytes, macs, latency_ms; what the planner tells of the device
    class_names: tuple[str, ...]
    decisions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "device": self.artifact.device.name, "subnet": self.subnet.to_json(), "accuracy": self.accuracy, "accuracy_of": self.accuracy_of,
            "cost": self.cost, "class_names": list(self.class_names), "decisions": list(self.decisions),
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(self.decisions)


def fit(
    device: Device | str, task: str = "cifar10", *, budget: Budget | Mapping[str, Any] | int | str | None = None, data: tuple[Any, Any] | None = None,
    tune: str = "head", epochs: float = 10, held_out: float = 0.2, seed: int = 0, say: Say = lambda _line: None,
    report: Callable[[Any], None] | None = None, **options: Any,
) -> Fitted:  # fmt: skip
    """A network for `device`, trained and compiled.

    task: what the shipped supernet was trained for: "cifar10", ten kinds of things and animals on 32-pixel colour pictures.
    budget: what the network may take of the device, `sdk.moofa.Budget`, its fields, or bytes of RAM ("24KiB"); all that is free by default.
    data: your own pictures, uint8 [n, height, width, 3], and labels [n] from 0 up: the network learns their classes instead. tune: its "head" alone,
    in seconds, or "all" of it, `epochs` times over the pictures. held_out: the share of them that only judges.
    say: told what is being done, a line each; report: told about each step where everything is tuned. options: further ones of `sdk.plan`, such as
    backend="onnx" for a Linux device, which otherwise tries every engine.
    Raises DoesNotFit with the smallest budget that would do, UsageError and DataError for wrong wishes and data.
    """
    try:
        from sdk.prepare.moofa.nn.tune import Tuning
    except ImportError as error:
        raise UsageError('fit takes its networks out of a torch module, and torch is not installed; pip install "embarq[torch,mcu]"') from error

    board, known, tuning = load_device(device), shipped(task), Tuning(tune, epochs, seed=seed)
    given = None if data is None else _split(*data, held_out, seed)
    classes = len(known.class_names) if given is None else int(np.max(data[1])) + 1  # type: ignore[index]
    say("choosing a subnet")
    choice = _choose(board, known, classes, budget, seed, own=given is not None)
    subnet = choice.subnet
    say("taking it out of the supernet")
    module = _module(known, subnet, given, tuning, report)
    pictures = known.samples() if given is None else given.x
    say("quantising and planning")
    plan = _planned(board, module, pictures, task, given, options)
    if not plan.fits:
        raise DoesNotFit(str(plan.shortfall))
    say("compiling")
    from sdk.artifact import compile_plan

    artifact = compile_plan(plan)
    if given is None:
        accuracy, accuracy_of, names = choice.accuracy, choice.accuracy_of, known.class_names
    else:
        say("judging it on held-back pictures")
        accuracy, accuracy_of = _judged(plan, module, given)
        names = tuple(f"class {i}" for i in range(classes))
    cost = _cost(plan, board)
    decisions = tuple(_decisions(board, known, subnet, cost, accuracy, accuracy_of, given, tune))
    return Fitted(artifact, module, subnet, accuracy, accuracy_of, cost, names, decisions)


@dataclass(frozen=True)
class _Given:
    """The user's pictures uint8 [n, H, W, 3] and labels [n], those to learn from and those that only judge."""

    x: np.ndarray
    y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray


def _split(x: Any, y: Any, held_out: float, seed: int) -> _Given:
    if not 0 < held_out < 1:
        raise UsageError(f"a held-out share of {held_out:g} is not possible; give one between 0 and 1")
    x, y = np.asarray(x), np.asarray(y).reshape(-1)
    if len(x) != len(y) or len(x) < 10:
        raise DataError(f"{len(x)} pictures and {len(y)} labels are not enough or do not belong together; give ten or more of each")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3:
        raise DataError(f"pictures must be uint8 [n, height, width, 3]; these are {x.dtype} {list(x.shape)}")
    if y.dtype.kind not in "iu" or y.min() < 0:
        raise DataError(f"labels must be integers from 0 up; these are {y.dtype} from {y.min()}")
    rows = np.random.default_rng(seed).permutation(len(x))
    back, kept = np.split(rows, [max(1, round(held_out * len(x)))])
    return _Given(x[kept], y[kept].astype(np.int64), x[back], y[back].astype(np.int64))


@dataclass(frozen=True)
class _Choice:
    """A subnet, how accurate it is on the task's own held-back pictures, and how that is known."""

    subnet: Subnet
    accuracy: float
    accuracy_of: str


def _choose(board: Device, known: Shipped, classes: int, budget: Any, seed: int, own: bool) -> _Choice:
    """The most accurate one that the budget allows: of the shelf, or of the whole space where the user's own pictures give statistics."""
    if budget is None and board.kind != "mcu":
        budget = Budget(macs=work(known.ladder, largest(known.ladder)).macs)
    limit = within(board, budget)
    costs = pricing(board, known.ladder, classes, limit)
    if not own:
        fitting = [(accuracy, net) for net, accuracy in known.shelf if limit.allows(costs(net))]
        for accuracy, net in sorted(fitting, key=lambda pair: -pair[0]):
            if _fits(costs, net):
                return _Choice(net, accuracy, f"measured on held-back {known.task} pictures before it was quantised")
    measured = known.measured
    expects = predictor.fit(known.ladder, [net for net, _ in measured], [accuracy for _, accuracy in measured])
    found = evolve(known.ladder, expects.score, costs, limit, Evolution(seed=seed), start=[net for net, _ in measured], count=FINALISTS)
    subnet = next((f.subnet for f in found if _fits(costs, f.subnet)), found[0].subnet)
    accuracy, spread = (float(value[0]) for value in expects.predict([subnet]))
    return _Choice(subnet, accuracy, f"as predicted from {len(measured)} subnets measured on held-back {known.task} pictures, +- {100 * spread:.1f} points")


def _fits(costs: Any, subnet: Subnet) -> bool:
    """Whether the whole plan fits; a computer has room for any."""
    return not isinstance(costs, Costs) or bool(costs.plan(subnet).fits)


def _module(known: Shipped, subnet: Subnet, given: _Given | None, tuning: Any, report: Callable[[Any], None] | None) -> SubnetModule:
    from sdk.prepare.moofa.nn.data import batches
    from sdk.prepare.moofa.nn.norm import reestimate
    from sdk.prepare.moofa.nn.tune import tune

    if given is None and (whole := known.whole(subnet)) is not None:
        return whole
    module = known.load().extract(subnet)
    if given is None:
        reestimate(module, batches(known.samples(), subnet.resolution))
        return module
    return tune(module, given.x, given.y, tuning, report)


def _inputs(x: np.ndarray, side: int) -> np.ndarray:
    """uint8 [n, H, W, 3] -> float32 [n, 3, side, side] in [0, 1]."""
    from sdk.prepare.moofa.nn.data import batches

    return np.concatenate([batch.numpy() for batch in batches(x, side)])


def _planned(board: Device, module: SubnetModule, x: np.ndarray, task: str, given: _Given | None, options: Mapping[str, Any]) -> Any:
    """The plan, in int8, for pictures channels last on a microcontroller."""
    import torch

    from sdk.model import load
    from sdk.planning import plan_model

    side = module.subnet.resolution
    layout = "nhwc" if board.kind == "mcu" else None
    model = load(module, torch.zeros(1, 3, side, side), name=task, input_layout=layout)
    seen = _inputs(x[:: max(1, len(x) // CALIBRATED)][:CALIBRATED], side)
    calibration = seen.transpose(0, 2, 3, 1) if layout else seen
    judged: dict[str, Any] = {} if board.kind == "mcu" or given is None else {"evaluation": (_inputs(given.held_x, side), given.held_y)}
    return plan_model(board, model, calibration=np.ascontiguousarray(calibration), **judged, **options)


def _judged(plan: Any, module: SubnetModule, given: _Given) -> tuple[float, str]:
    """The accuracy on held-back pictures: of the very integers that the microcontroller computes, or of the float network on a computer."""
    from sdk.golden import quantise_array
    from sdk.graph.interpreter import run

    x, y = given.held_x[:JUDGED], given.held_y[:JUDGED]
    inputs = _inputs(x, module.subnet.resolution)
    if not hasattr(plan, "graph"):
        import torch

        with torch.no_grad():
            answers = module(torch.from_numpy(inputs)).argmax(1).numpy()
        return float((answers == y).mean()), f"of the float network on {len(y)} held-back pictures of yours"
    graph = plan.graph
    q = quantise_array(graph[graph.inputs[0]], np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)))
    logits = np.concatenate([run(graph, {graph.inputs[0]: q[i : i + 50]})[graph.outputs[0]] for i in range(0, len(q), 50)])
    return float((logits.reshape(len(y), -1).argmax(1) == y).mean()), f"of the int8 network on {len(y)} held-back pictures of yours"


def _cost(plan: Any, board: Device) -> dict[str, Any]:
    if board.kind != "mcu":
        return {}
    latency_ms = None if plan.cost.latency_s is None else 1e3 * plan.cost.latency_s
    return {"arena_bytes": sum(plan.arena_bytes), "flash_bytes": plan.flash.total, "macs": plan.cost.macs, "latency_ms": latency_ms}


def _decisions(
    board: Device, known: Shipped, subnet: Subnet, cost: dict[str, Any], accuracy: float, accuracy_of: str, given: _Given | None, tune: str
) -> Iterator[str]:
    side = f"{subnet.resolution}x{subnet.resolution}"
    yield f"{known.task} on {board.name}: a subnet of {known.ladder.name} with {sum(subnet.depths)} blocks for {side} pictures."
    if cost:
        latency = "" if cost["latency_ms"] is None else f", about {cost['latency_ms']:.0f} ms an inference"
        yield f"It takes {cost['arena_bytes']:,} bytes of RAM, {cost['flash_bytes']:,} of flash and {cost['macs']:,} MACs{latency}."
    if given is None:
        yield "Nothing was trained; its int8 ranges come from sample pictures that were made from the supernet's weights."
        if all(net != subnet for net, _ in known.shelf):
            yield "No subnet that is kept whole meets the budget, so this one's batch-norm statistics come from them too, which costs accuracy: give data."
    else:
        yield f"Its {'head' if tune == 'head' else 'whole'} learned {len(given.y)} pictures of yours in {int(given.y.max()) + 1} classes."
    yield f"Accuracy {100 * accuracy:.1f} %, {accuracy_of}."
