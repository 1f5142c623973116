"""`make_plan`: from a device and a graph to a `Plan`, in sentences and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.graph.ops import written
from sdk.planner.arrange import ORDERS, Placement, live_bytes, without_sharing
from sdk.planner.assess import Needs, Wish, assess, stack_reserved
from sdk.planner.bounds import lower_bound
from sdk.planner.budget import budget
from sdk.planner.latency import node_cycles, node_macs
from sdk.planner.mends import find_mends
from sdk.planner.problem import from_graph
from sdk.planner.records import Budget, Cost, MemoryUse, Mend, Plan, PlanStep, Shortfall, plan_from_dict
from targets.device import Device, load_device

if TYPE_CHECKING:
    import numpy as np

    from sdk.passes.quant_report import QuantReport
    from sdk.planner.mcu_training import TrainingUse

__all__ = [
    "Budget", "Cost", "MemoryUse", "Mend", "Placement", "Plan", "PlanStep", "Shortfall", "budget", "make_plan", "plan_from_dict",
]  # fmt: skip


def make_plan(
    device: Device | str,
    graph: Graph,
    *,
    name: str | None = None,
    keep_input: bool = False,
    in_place: bool = True,
    order: str = "best",
    alignment: int = 4,
    compiler: str = "zig",
    decisions: Sequence[str] = (),
    vectors: Sequence[tuple[np.ndarray, ...]] = (),
    quant_report: QuantReport | None = None,
    mends: bool = True,
    training: TrainingUse | None = None,
) -> Plan:
    """Plan `graph`, which has been through its passes, for `device`.

    keep_input: the inputs' bytes survive the inference. in_place: outputs may overlap dying inputs where kernels allow it.
    order: "best" (lowest peak) or "given". alignment: of every buffer's offset, a power of two from 4 to 16 on a board.
    decisions: sentences about what was decided before, kept in front of ours. vectors: inputs to verify with, and
    quant_report: both carried along.
    training: what `graph` is a step of; carried along, and counted in flash.
    mends: look for mends when it does not fit. Raises `UnsupportedOp` for an op without a kernel; never for "too large".
    """
    device = load_device(device)
    if order not in ORDERS:
        raise UsageError(f"order {order!r} is not known; choose one of {', '.join(ORDERS)}")
    if alignment not in (4, 8, 16):
        raise UsageError(f"alignment {alignment} is not possible; buffers start at multiples of 4, 8 or 16 bytes")
    wish = Wish(device, graph, keep_input, in_place, order, alignment, compiler, training=training)
    needs = assess(wish)
    placed = needs.arrangement.placements
    return Plan(
        name=name or graph.name,
        device=device,
        backend=device.backends[0],
        compiler=compiler,
        graph=needs.arrangement.graph,
        steps=_steps(wish, needs),
        placements={p.tensor: p for p in placed if p.kind != "scratch"},
        scratches={p.tensor: p for p in placed if p.kind == "scratch"},
        arena_bytes=needs.arrangement.layout.arena_bytes,
        lower_bound_bytes=needs.arrangement.layout.lower_bound_bytes,
        memories=needs.memories,
        flash=needs.flash,
        stack_bytes=needs.code.stack,
        stack_reserved_bytes=stack_reserved(device, needs.code.stack) if device.kind == "mcu" else 0,
        cost=_cost(wish, needs),
        keep_input=keep_input,
        in_place=in_place,
        decisions=(*decisions, *_decisions(wish, needs)),
        mends=find_mends(wish, needs) if mends and not needs.fits else (),
        estimated=needs.code.estimated,
        vectors=tuple(vectors),
        quant_report=quant_report,
        training=training,
    )


def _steps(wish: Wish, needs: Needs) -> tuple[PlanStep, ...]:
    graph = needs.arrangement.graph
    by_name = {node.name: node for node in graph.nodes}
    alive = live_bytes(needs.arrangement)
    rows = []
    for index, step in enumerate(needs.arrangement.problem.steps):
        node = by_name[step.name]
        call: Any = needs.calls[node.name] if wish.device.kind == "mcu" else None
        out = graph[written(node)[0]]
        cycles = node_cycles(graph, node, wish.device.isa, needs.code.entries.get(call.function)) if call else 0.0
        op = str(node.attrs.get("kind", node.op)) if node.op == "opaque" else node.op
        rows.append(
            PlanStep(
                index, node.name, op, call.function if call else "", out.name, out.shape, out.dtype,
                node_macs(graph, node), round(cycles), alive[index], step.scratch_bytes, call,
            )
        )  # fmt: skip
    return tuple(rows)


def _cost(wish: Wish, needs: Needs) -> Cost:
    graph = needs.arrangement.graph
    entries = needs.code.entries
    macs = sum(node_macs(graph, node) for node in graph.nodes)
    if wish.device.kind != "mcu":
        return Cost(macs, 0, wish.device.core.clock_hz, "speed is not estimated for this kind of device")
    cycles, measured = 0.0, True
    for node in graph.nodes:
        call: Any = needs.calls.get(node.name)
        if call is None:
            continue
        entry = entries.get(getattr(call, "function", ""), {})
        measured = measured and "cycles_per_mac" in entry
        cycles += node_cycles(graph, node, wish.device.isa, entry)
    basis = "measured cycles per kernel" if measured else "estimate: a table of cycles per MAC, no caches, no wait states"
    return Cost(macs, round(cycles), wish.device.core.clock_hz, basis)


def _decisions(wish: Wish, needs: Needs) -> Iterator[str]:
    """What the planner decided and what it is worth, one sentence each."""
    yield from _order_decision(wish, needs)
    yield from _sharing_decision(wish, needs)
    yield from _input_decision(wish, needs)
    yield from _place_decision(wish, needs)
    if needs.code.estimated and wish.device.kind == "mcu":
        unknown = needs.code.estimated
        names = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        yield f"Code and stack of {names} are estimates: nobody has measured them for this core and compiler yet."


def _order_decision(wish: Wish, needs: Needs) -> Iterator[str]:
    schedule = needs.arrangement.schedule
    if wish.order == "given":
        yield "The steps stay in the order given, as asked."
    elif schedule.peak_bytes < schedule.given_peak_bytes:
        saved = schedule.given_peak_bytes - schedule.peak_bytes
        yield f"The steps were reordered: the peak is {saved:,} bytes lower than in the order given ({schedule.given_peak_bytes:,})."
    else:
        how = "no other order has a lower peak" if schedule.exact else "no order tried has a lower peak"
        yield f"The steps stay in the order given: {how}."


def _sharing_decision(wish: Wish, needs: Needs) -> Iterator[str]:
    if not wish.in_place:
        yield "No output shares bytes with its input, as asked (in_place=False)."
        return
    graph = needs.arrangement.graph
    apart = lower_bound(from_graph(graph, without_sharing(needs.calls), keep_input=wish.keep_input), wish.alignment)
    saved = apart - sum(needs.arrangement.layout.arena_bytes)
    if saved > 0:
        yield f"Outputs are written over inputs that die there, as far as each kernel allows: {saved:,} bytes less than apart ({apart:,})."

    choice = needs.choice
    if choice is not None and choice.others and choice.saved_bytes > 0:
        who = f"{len(choice.others)} depthwise layers copy" if len(choice.others) > 1 else "A depthwise layer copies"
        yield f"{who} a few rows before they are written over, so that the image stays in place: {choice.saved_bytes:,} bytes less."


def _input_decision(wish: Wish, needs: Needs) -> Iterator[str]:
    graph = needs.arrangement.graph
    if wish.keep_input:
        yield "The input's bytes are kept through the inference, as asked (keep_input=True)."
    elif wish.device.kind == "mcu":
        kept = lower_bound(from_graph(graph, needs.calls, keep_input=True), wish.alignment)
        more = kept - sum(needs.arrangement.layout.arena_bytes)
        if more > 0:
            yield f"The input's bytes are reused once it is read, so write it before every run; keeping them takes {more:,} or more."


def _place_decision(wish: Wish, needs: Needs) -> Iterator[str]:
    layout = needs.arrangement.layout
    used = [(m.name, m.part("arena")) for m in needs.memories if m.part("arena")]
    largest = max(needs.arrangement.placements, key=lambda p: p.size_bytes, default=None)
    room = max((m.size_bytes for m in needs.memories if m.region >= 0), default=0)
    if largest is not None and largest.size_bytes > room:
        yield f"{largest.tensor} alone takes {largest.size_bytes:,} bytes, more than any memory has ({room:,})."
    if len(used) > 1:
        where = " and ".join(f"{name} ({size:,} bytes)" for name, size in used)
        yield f"The arena is split over {where}: the first alone is too small."
    elif layout.optimal:
        yield f"The arena of {sum(layout.arena_bytes):,} bytes is at its lower bound: no placement of these steps is smaller."
    elif used:
        over = sum(layout.arena_bytes) - layout.lower_bound_bytes
        yield f"The arena of {sum(layout.arena_bytes):,} bytes is {over:,} above its lower bound ({layout.lower_bound_bytes:,})."
