"""What a network, or a part of it, takes on the device: asked of the planner, or timed here where this computer is the device.

A part is planned as a net of its own with the precision that the device will run: int8 for microcontrollers. The values that ranges are
calibrated on hardly change what a layer costs, so random ones do for parts; the whole network is calibrated on real samples where there are some.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.statistics import judging
from targets.device import Device, load_device

#: A plan run on an emulated board: instructions of each of its steps.
Count = Callable[["Plan"], Sequence[int]]

if TYPE_CHECKING:
    from sdk.graph.ir import Graph
    from sdk.planner.plan import Plan
    from sdk.prepare.tlc.nn.segments import Segment

#: Multiply-accumulates a second where nothing is known of the device's speed: only ratios mean something then.
NOMINAL_MACS_S, NOMINAL_HZ = 1e9, 1e8
#: Timed here: runs, of which the fastest counts, for what else runs on the computer must not.
RUNS = 7


@dataclass(frozen=True)
class Cost:
    """Of one inference: seconds, the largest sum of activations alive at once in bytes, multiply-accumulates."""

    latency_s: float
    peak_bytes: int
    macs: int


@dataclass(frozen=True)
class Place:
    """What one linear operation, with all that follows it up to the next, takes inside the whole network.

    `after_s`: the part of `latency_s` that what follows it takes. `outside_bytes`: alive during the operation besides what it reads and writes;
    `left_bytes`: the same after all that follows it, when a residual add, say, has read what was kept for it. `planned_s`: `latency_s` by the
    planner's cycles, whatever tells the latency.
    """

    name: str
    latency_s: float
    peak_bytes: int
    after_s: float = 0.0
    outside_bytes: int = 0
    left_bytes: int = 0
    planned_s: float = 0.0


class Costs:
    """Costs on one device. `basis` says in a sentence where the seconds come from."""

    def __init__(self, device: Device | str | None, calibration: np.ndarray | None = None, count: Count | None = None) -> None:
        """calibration: float32 [n, ...] inputs of the whole network, as torch takes them. count: runs a plan on the emulated board.

        Raises UsageError where instructions are to be counted and the device is no microcontroller."""
        self.device = load_device("host" if device is None else device)
        self.timed = device is not None and self.device.name == "host"
        self._count = count
        if count is not None and self.device.kind != "mcu":
            raise UsageError(f"cost='counted' runs parts of the network on an emulated board and {self.device.name} is none; use cost='planned'")
        self._calibration = calibration
        self._parts: dict[str, Cost] = {}
        self._counts: dict[int, tuple[Plan, list[float]]] = {}

    @property
    def counted(self) -> bool:
        """True when latencies are instructions on the emulated board."""
        return self._count is not None

    @property
    def basis(self) -> str:
        """Where latencies come from."""
        if self.counted:
            return f"instructions on the emulated {self.device.name}, int8, as if each took a cycle"
        if self.device.kind == "mcu":
            return f"the planner's cycles on {self.device.name}, int8"
        if self.timed:
            return "timed on this computer with one thread, float32"
        return "multiply-accumulates, for no speed of the device is known; only ratios mean something"

    def part(self, module: nn.Module, shape: tuple[int, ...]) -> Cost:
        """Of a part on its own; `shape` of its input, batch 1. The same structure is asked only once."""
        key = f"{shape} {signature(module)}"
        if key not in self._parts:
            self._parts[key] = self.whole(module, shape)[0]
        return self._parts[key]

    def convolution(self, segment: Segment) -> Cost:
        """Of the one convolution that a segment of 2-d convolutions becomes, on a microcontroller: planned without torch, in milliseconds."""
        key = f"{segment.input_shape} {segment.outputs} {segment.kernel} {segment.stride} {segment.padding}"
        if key not in self._parts:
            plan = self._planned(segment)
            self._parts[key] = Cost(sum(self._seconds(plan)), max(step.live_bytes for step in plan.steps), plan.macs)
        return self._parts[key]

    def planned_s(self, segment: Segment) -> float:
        """Of the same convolution, by the planner's cycles."""
        return sum(cycles_s(self._planned(segment)))

    def _planned(self, segment: Segment) -> Plan:
        from sdk.planner.plan import make_plan

        return make_plan(self.device, convolution_graph(segment), mends=False)

    def whole(self, module: nn.Module, shape: tuple[int, ...]) -> tuple[Cost, tuple[Place, ...]]:
        """Of a network whose input has `shape` (batch 1), and of each of its linear operations in the order of execution."""
        return self.priced(self.plan(module, shape), module, shape)

    def priced(self, plan: Any, module: nn.Module, shape: tuple[int, ...]) -> tuple[Cost, tuple[Place, ...]]:
        """The same from the plan that `plan` made."""
        base = base_of(plan)
        seconds = self._seconds(base) if self.device.kind == "mcu" else self._shared_out(base, module, shape)
        places = _places(base, seconds)
        total = sum(place.latency_s for place in places)
        return Cost(total, max((step.live_bytes for step in base.steps), default=0), base.macs), places

    def plan(self, module: nn.Module, shape: tuple[int, ...]) -> Any:
        """The device's plan of the module, int8 on a microcontroller."""
        from sdk.model import load
        from sdk.planning import plan_model

        pictures = len(shape) == 4
        model = load(module.eval(), example=self.example(shape), name="part", input_layout="nhwc" if pictures else None)
        if self.device.kind != "mcu":
            return plan_model(self.device, model)
        return plan_model(self.device, model, calibration=self._samples(shape, pictures))

    def example(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Zeros of a shape, of the type that the whole network takes where the shape is its own."""
        given = self._calibration
        whole = given is not None and given.shape[1:] == shape[1:]
        return torch.zeros(shape, dtype=torch.from_numpy(given[:1]).dtype if given is not None and whole else torch.float32)

    def _samples(self, shape: tuple[int, ...], pictures: bool) -> np.ndarray:
        """[n, ...] as the plan takes them, channels last."""
        given = self._calibration
        fits = given is not None and given.shape[1:] == shape[1:]
        x = given if given is not None and fits else np.random.default_rng(0).standard_normal((4, *shape[1:])).astype(np.float32)
        return np.ascontiguousarray(x.transpose(0, *range(2, x.ndim), 1)) if pictures else x

    def _seconds(self, base: Plan) -> list[float]:
        """Of every step, by the planner's cycles or by instructions."""
        if self._count is None:
            return cycles_s(base)
        if id(base) not in self._counts:
            self._counts[id(base)] = base, [count / (base.cost.clock_hz or NOMINAL_HZ) for count in self._count(base)]
        return self._counts[id(base)][1]

    def _shared_out(self, base: Plan, module: nn.Module, shape: tuple[int, ...]) -> list[float]:
        """Of every step: timed as a whole, or nominal, and shared out by multiply-accumulates and values written."""
        work = [step.macs + 4 * float(np.prod(step.shape)) for step in base.steps]
        whole = timed_s(folded(module), self.example(shape)) if self.timed else sum(work) / NOMINAL_MACS_S
        return [whole * w / max(sum(work), 1e-30) for w in work]


def base_of(plan: Any) -> Plan:
    """The plan of the graph itself: a Linux device's plan has it beside the engines."""
    found: Plan = plan.base if hasattr(plan, "base") else plan
    return found


def cycles_s(plan: Plan) -> list[float]:
    """Seconds of every step by the planner's cycles."""
    return [step.cycles / (plan.cost.clock_hz or NOMINAL_HZ) for step in plan.steps]


def _places(plan: Plan, seconds: list[float]) -> tuple[Place, ...]:
    """Steps gathered under the linear operation they follow; those before the first belong to it."""
    nodes = {node.name: node for node in plan.graph.nodes}
    found: list[Place] = []
    early = Place("", 0.0, 0)
    for step, spent, planned in zip(plan.steps, seconds, cycles_s(plan), strict=True):
        node = nodes[step.node]
        origins = [plan.graph[name].origin or "" for name in node.inputs if name]
        owner = next((o.removesuffix(".weight") for o in origins if o.endswith(".weight")), step.node) if step.macs else ""
        own = {*node.inputs, *node.outputs}
        outside = sum(p.size_bytes for p in plan.alive(step.index) if p.kind != "scratch" and p.tensor not in own)
        here = Place(owner, spent, step.live_bytes, 0.0 if owner else spent, outside, outside, planned)
        if owner:
            found.append(_joined(here, early) if not found else here)
        elif found:
            found[-1] = _joined(found[-1], here)
        else:
            early = _joined(here, early)
    return tuple(found) or (early,)


def _joined(a: Place, b: Place) -> Place:
    """`a`'s operation with what `b` does before or after it."""
    left = min(a.left_bytes, b.left_bytes) if b.peak_bytes else a.left_bytes
    return Place(a.name, a.latency_s + b.latency_s, max(a.peak_bytes, b.peak_bytes), a.after_s + b.after_s, a.outside_bytes, left, a.planned_s + b.planned_s)


def convolution_graph(segment: Segment) -> Graph:
    """An int8 graph of one convolution with made-up weights: input [1, H, W, C], as boards have it."""
    from sdk.graph.builder import Builder
    from sdk.graph.ir import Quant

    builder = Builder("merged")
    _, channels, height, width = segment.input_shape
    x = builder.input("x", (1, height, width, channels), "int8", Quant((0.05,), (0,)))
    shape = (segment.outputs, *segment.kernel, channels)
    values = np.random.default_rng(0).integers(-8, 8, shape, dtype=np.int8)
    scales = (0.01,) * segment.outputs
    w = builder.const("w", values, None, Quant(scales, (0,) * segment.outputs, 0))
    b = builder.const("b", np.zeros(segment.outputs, np.int32), None, Quant(tuple(0.05 * s for s in scales), (0,) * segment.outputs, 0))
    rows, columns = segment.padding
    y = builder.op(
        "conv2d", x, w, b, quant=Quant((0.05,), (0,)), activation="none", groups=1, stride=segment.stride, dilation=(1, 1),
        padding=((rows, rows), (columns, columns)),
    )  # fmt: skip
    return builder.graph([y])


def folded(module: nn.Module) -> nn.Module:
    """A copy with its batch norms in the layers before them, as every engine has them: without that a dense network would look slow."""
    from sdk.prepare.tlc.nn.fold import fold

    if not isinstance(module, fx.GraphModule):
        return module
    made = copy.deepcopy(module).eval()
    fold(made)
    made.recompile()
    return made


def timed_s(module: nn.Module, x: torch.Tensor, runs: int = RUNS) -> float:
    """Seconds of the fastest of some inferences of x on this computer with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with judging(module):
            module(x)
            return min(_once_s(module, x) for _ in range(runs))
    finally:
        torch.set_num_threads(threads)


def _once_s(module: nn.Module, x: torch.Tensor) -> float:
    started = time.perf_counter()
    module(x)
    return time.perf_counter() - started


def signature(module: nn.Module) -> str:
    """The module's structure without its values: what its cost depends on."""
    graph = getattr(module, "graph", None)
    wiring = "" if graph is None else " ".join(f"{n.op}:{n.target}({','.join(str(a) for a in n.args)})" for n in graph.nodes)
    return f"{wiring}|{module}"
