"""The plan and what it is made of: frozen records, with nothing left to decide in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdk.planner.arrange import Placement
from sdk.planner.flash import FlashUse
from sdk.planner.mcu_training import TrainingUse, training_from_dict

if TYPE_CHECKING:
    import numpy as np

    from sdk.graph.ir import Graph
    from sdk.kernels.base import Call
    from sdk.passes.quant_report import QuantReport
    from targets.device import Device


@dataclass(frozen=True)
class MemoryUse:
    """One memory of the device and what lies in it. `parts`: (what, bytes); `region`: its index among the arena regions, or -1."""

    name: str
    kind: str  # "flash" | "ram"
    start: int
    size_bytes: int
    parts: tuple[tuple[str, int], ...]
    region: int = -1

    @property
    def used_bytes(self) -> int:
        """Bytes taken, more than `size_bytes` when it does not fit."""
        return sum(size for _, size in self.parts)

    @property
    def free_bytes(self) -> int:
        """Bytes left; 0 when it does not fit."""
        return max(0, self.size_bytes - self.used_bytes)

    def part(self, what: str) -> int:
        """Bytes of one part; 0 when there is none."""
        return dict(self.parts).get(what, 0)


@dataclass(frozen=True)
class Shortfall:
    """A memory that would need to be larger."""

    memory: str
    used_bytes: int
    size_bytes: int

    @property
    def over_bytes(self) -> int:
        """Exact bytes missing."""
        return self.used_bytes - self.size_bytes

    def __str__(self) -> str:
        return f"{self.memory} is {self.over_bytes:,} bytes too small ({self.used_bytes:,} needed, {self.size_bytes:,} there)"


@dataclass(frozen=True)
class Mend:
    """A change that helps. `text` is the advice; the figures were computed by planning with the change, not guessed.

    `fits`: the change alone is enough. `options`: arguments of `sdk.plan` that apply it; empty when the model must change.
    """

    text: str
    fits: bool
    ram_bytes: int
    flash_bytes: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class PlanStep:
    """One kernel call in order. `live_bytes` is what is alive at the step, bytes shared by input and output counted once."""

    index: int
    node: str
    op: str
    function: str
    output: str
    shape: tuple[int, ...]
    dtype: str
    macs: int
    cycles: int
    live_bytes: int
    scratch_bytes: int
    call: Call | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Cost:
    """Work of one inference. `cycles` is an estimate, see `sdk.planner.latency`; 0 where there is none."""

    macs: int
    cycles: int
    clock_hz: int
    basis: str

    @property
    def latency_s(self) -> float | None:
        """Seconds an inference takes, by the estimate; None where it is missing or the clock is not confirmed."""
        return self.cycles / self.clock_hz if self.clock_hz and self.cycles else None


@dataclass(frozen=True)
class Plan:
    """Everything decided about running a model on a device. `print(plan)` tells it; `sdk.compile(plan)` writes it.

    `steps` are in the order of execution and so are `graph.nodes`; `placements` maps every tensor, `scratches` every node that
    has one, to its bytes; `arena_bytes[r]` is the size of the device's arena region r.
    """

    name: str
    device: Device
    backend: str
    compiler: str
    graph: Graph = field(repr=False)
    steps: tuple[PlanStep, ...] = field(repr=False)
    placements: Mapping[str, Placement] = field(repr=False)
    scratches: Mapping[str, Placement] = field(repr=False)
    arena_bytes: tuple[int, ...]
    lower_bound_bytes: int
    memories: tuple[MemoryUse, ...]
    flash: FlashUse | None
    stack_bytes: int  # bound on the stack in use, interrupts and bridge included
    stack_reserved_bytes: int  # what the linker script must set aside
    cost: Cost
    keep_input: bool = False
    in_place: bool = True
    decisions: tuple[str, ...] = ()
    mends: tuple[Mend, ...] = ()
    estimated: tuple[str, ...] = ()  # functions whose size was estimated, not measured
    vectors: tuple[tuple[np.ndarray, ...], ...] = field(default=(), repr=False, compare=False)
    quant_report: QuantReport | None = field(default=None, repr=False)  # what quantising cost, where that was asked
    training: TrainingUse | None = field(default=None, repr=False)  # `graph` is a training step; None: an inference

    def __post_init__(self) -> None:
        for name in ("placements", "scratches"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def shortfall(self) -> tuple[Shortfall, ...]:
        """Every memory that is too small, with exact bytes; a budget of training counts as one."""
        found = tuple(Shortfall(m.name, m.used_bytes, m.size_bytes) for m in self.memories if m.used_bytes > m.size_bytes)
        budget = self.training.budget_bytes if self.training else None
        over = budget is not None and self.ram_bytes > budget
        return (*found, Shortfall("the training budget", self.ram_bytes, budget or 0)) if over else found

    @property
    def fits(self) -> bool:
        """True when no memory is too small."""
        return not self.shortfall

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.cost.macs

    @property
    def ram_bytes(self) -> int:
        """Arena, data, bss and the stack set aside, over all memories."""
        return sum(size for m in self.memories if m.kind == "ram" for what, size in m.parts if what != "reserved")

    @property
    def flash_bytes(self) -> int:
        """Flash of the firmware; 0 on devices without one."""
        return self.flash.total if self.flash else 0

    def scratch(self, node: str) -> Placement:
        """Where the scratch of `node` lies. Raises KeyError when its kernel asks for none."""
        return self.scratches[node]

    def alive(self, step: int) -> tuple[Placement, ...]:
        """Buffers alive at a step, largest first; tensors that are another's bytes are left out."""
        rows = [p for p in (*self.placements.values(), *self.scratches.values()) if p.first_step <= step <= p.last_step and not p.alias_of]
        return tuple(sorted(rows, key=lambda p: (-p.size_bytes, p.tensor)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything but weights and vectors. `plan_from_dict` reads it back."""
        steps = [{f.name: getattr(s, f.name) for f in fields(s) if f.name != "call"} for s in self.steps]
        return {
            "version": 1,
            "name": self.name,
            "device": self.device.name,
            "backend": self.backend,
            "compiler": self.compiler,
            "fits": self.fits,
            "keep_input": self.keep_input,
            "in_place": self.in_place,
            "arena_bytes": list(self.arena_bytes),
            "lower_bound_bytes": self.lower_bound_bytes,
            "stack_bytes": self.stack_bytes,
            "stack_reserved_bytes": self.stack_reserved_bytes,
            "memories": [_plain(m) for m in self.memories],
            "flash": _plain(self.flash) if self.flash else None,
            "cost": {**_plain(self.cost), "latency_s": self.cost.latency_s},
            "steps": [{**s, "shape": list(s["shape"])} for s in steps],
            "placements": [_plain(p) for p in (*self.placements.values(), *self.scratches.values())],
            "decisions": list(self.decisions),
            "shortfall": [{**_plain(s), "over_bytes": s.over_bytes} for s in self.shortfall],
            "mends": [{**_plain(m), "options": dict(m.options)} for m in self.mends],
            "estimated": list(self.estimated),
            "quant_report": self.quant_report.to_dict() if self.quant_report else None,
            "training": self.training.to_dict() if self.training else None,
        }

    def to_html(self) -> str:
        """One self-contained page."""
        from sdk.planner.report_html import plan_html

        return plan_html(self)

    def __str__(self) -> str:
        from sdk.planner.report import plan_text

        return plan_text(self)


def _plain(record: Any) -> dict[str, Any]:
    """A record as JSON values: tuples become lists."""
    return {f.name: _listed(getattr(record, f.name)) for f in fields(record)}


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return [_listed(v) for v in value] if isinstance(value, (tuple, list)) else value


def plan_from_dict(data: Mapping[str, Any], device: Device) -> Plan:
    """The plan that `Plan.to_dict` wrote, for reading and reporting: its graph is empty and its steps have no calls."""
    from sdk.graph.ir import Graph

    placed = [Placement(**row) for row in data["placements"]]
    cost = {key: value for key, value in data["cost"].items() if key != "latency_s"}
    return Plan(
        name=data["name"], device=device, backend=data["backend"], compiler=data["compiler"], graph=Graph(data["name"], (), (), {}, ()),
        steps=tuple(PlanStep(**{**row, "shape": tuple(row["shape"])}) for row in data["steps"]),
        placements={p.tensor: p for p in placed if p.kind != "scratch"},
        scratches={p.tensor: p for p in placed if p.kind == "scratch"},
        arena_bytes=tuple(data["arena_bytes"]), lower_bound_bytes=data["lower_bound_bytes"],
        memories=tuple(MemoryUse(**{**row, "parts": tuple((what, size) for what, size in row["parts"])}) for row in data["memories"]),
        flash=FlashUse(**data["flash"]) if data["flash"] else None,
        stack_bytes=data["stack_bytes"], stack_reserved_bytes=data["stack_reserved_bytes"], cost=Cost(**cost),
        keep_input=data["keep_input"], in_place=data["in_place"], decisions=tuple(data["decisions"]),
        mends=tuple(Mend(**row) for row in data["mends"]), estimated=tuple(data["estimated"]),
        training=training_from_dict(data["training"]) if data.get("training") else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What a device has to spend before any model. `facts`: (what, value, source) a person reads; `unconfirmed` are never used."""

    device: Device
    backend: str
    memories: tuple[MemoryUse, ...]
    facts: tuple[tuple[str, str, str], ...]
    unconfirmed: tuple[str, ...]
    estimated: bool  # code and stack of the runtime were not measured for this core

    @property
    def arena_bytes(self) -> int:
        """RAM left for tensors, over all memories."""
        return sum(m.free_bytes for m in self.memories if m.region >= 0)

    @property
    def flash_bytes(self) -> int:
        """Flash left for weights and kernels."""
        return sum(m.free_bytes for m in self.memories if m.kind == "flash")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "device": self.device.name,
            "backend": self.backend,
            "arena_bytes": self.arena_bytes,
            "flash_bytes": self.flash_bytes,
            "memories": [{**_plain(m), "free_bytes": m.free_bytes} for m in self.memories],
            "facts": [{"what": what, "value": value, "source": source} for what, value, source in self.facts],
            "unconfirmed": list(self.unconfirmed),
            "estimated": self.estimated,
        }

    def __str__(self) -> str:
        from sdk.planner.report import budget_text

        return budget_text(self)
