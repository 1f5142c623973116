"""What a model needs on a device, under given wishes: the arithmetic of a plan, without its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph
from sdk.planner.arrange import Arrangement, arrange
from sdk.planner.best_calls import Choice, best_calls
from sdk.planner.bounds import round_up
from sdk.planner.flash import FlashUse, flash_breakdown
from sdk.planner.measured import Footprint, footprint
from sdk.planner.placement import Region
from sdk.planner.problem import Asks, default_calls
from sdk.planner.records import MemoryUse, Shortfall
from targets.device import Device, Memory

if TYPE_CHECKING:
    from sdk.kernels.base import Call
    from sdk.planner.mcu_training import TrainingUse

BASE_ALIGNMENT = 16  # of every arena region, as embarq.h promises the kernels


@dataclass(frozen=True)
class Wish:
    """What is asked of the planner. `calls` are the kernels on the device's core; None: ask the kernel table. `training`: `graph` is
    a step of it, and flash holds start values and two copies of what was learnt."""

    device: Device
    graph: Graph
    keep_input: bool = False
    in_place: bool = True
    order: str = "best"
    alignment: int = 4
    compiler: str = "zig"
    calls: Mapping[str, Call | None] | None = None
    training: TrainingUse | None = None


@dataclass(frozen=True)
class Needs:
    """What the wish takes: an arrangement, code and its footprint, and every memory's use."""

    arrangement: Arrangement
    calls: Mapping[str, Any]
    code: Footprint
    flash: FlashUse | None
    memories: tuple[MemoryUse, ...]
    choice: Choice | None = None

    @property
    def shortfall(self) -> tuple[Shortfall, ...]:
        """Memories that are too small."""
        return tuple(Shortfall(m.name, m.used_bytes, m.size_bytes) for m in self.memories if m.used_bytes > m.size_bytes)

    @property
    def fits(self) -> bool:
        """True when every memory is large enough."""
        return not self.shortfall

    @property
    def over_bytes(self) -> int:
        """Bytes missing, over all memories."""
        return sum(s.over_bytes for s in self.shortfall)

    @property
    def ram_bytes(self) -> int:
        """RAM taken, what others reserve left out."""
        return sum(size for m in self.memories if m.kind == "ram" for what, size in m.parts if what != "reserved")

    @property
    def flash_bytes(self) -> int:
        """Flash the firmware takes."""
        return self.flash.total if self.flash else 0


def lower_all(graph: Graph, isa: frozenset[str]) -> dict[str, Call | None]:
    """Node -> kernel call on a core with `isa`; None for a reshape. Raises UnsupportedOp for the first node without a kernel,
    saying how many more there are."""
    from sdk.kernels.table import lower

    calls: dict[str, Call | None] = {}
    refused: list[UnsupportedOp] = []
    for node in graph.nodes:
        try:
            calls[node.name] = lower(graph, node, isa)
        except UnsupportedOp as error:
            refused.append(error)
    if refused:
        more = f" ({len(refused) - 1} more nodes of this model are refused too)" if len(refused) > 1 else ""
        raise UnsupportedOp(f"{refused[0]}{more}") from refused[0]
    return calls


def assess(wish: Wish) -> Needs:
    """Lower, arrange, and add up what every memory holds. Raises UnsupportedOp only; too large is an answer, not an error."""
    return _assess_mcu(wish) if wish.device.kind == "mcu" else _assess_linux(wish)


def stack_reserved(device: Device, bound: int) -> int:
    """Bytes of stack the linker script must set aside: the device's own figure, or the bound where that is higher."""
    return round_up(max(device.stack_bytes, bound), 8)


def runtime_parts(device: Device, bank: Memory, code: Footprint) -> tuple[tuple[str, int], ...]:
    """What lies in a RAM bank besides tensors: what others reserve and, in the main RAM, stack and data up to the arena's start."""
    parts = [("reserved", bank.reserved_bytes)] if bank.reserved_bytes else []
    if bank.start == device.main_ram.start:
        stack = stack_reserved(device, code.stack)
        parts += [("stack", stack), ("data", round_up(stack + round_up(code.data, 8) + round_up(code.bss, 8), BASE_ALIGNMENT) - stack)]
    return tuple(parts)


def arena_regions(device: Device, code: Footprint) -> tuple[Region, ...]:
    """The regions tensors may use, each as large as what the rest leaves of it."""
    regions = []
    for bank in device.arena_regions():
        taken = sum(size for _, size in runtime_parts(device, bank, code))
        regions.append(Region(bank.name, max(0, bank.size_bytes - taken)))
    return tuple(regions)


def _assess_mcu(wish: Wish) -> Needs:
    device = wish.device
    calls = wish.calls if wish.calls is not None else lower_all(wish.graph, device.isa)
    listed = [call for call in calls.values() if call is not None]
    code = footprint(device, wish.compiler, [call.function for call in listed], learns=wish.training is not None)
    regions = arena_regions(device, code)
    choice = best_calls(wish.graph, calls, lambda chosen: _arrange(wish, chosen, regions))
    calls, arrangement = choice.calls, choice.arrangement
    ordered = [calls[step.name] for step in arrangement.problem.steps]
    flash = flash_breakdown(arrangement.graph, [call for call in ordered if call is not None], code, wish.training)
    kept = kept_parts(device, wish.training)
    memories = (flash_memory(device, (*flash.parts(), *kept)), *ram_memories(device, code, arrangement.layout.arena_bytes))
    return Needs(arrangement, calls, code, flash, memories, choice)


def kept_parts(device: Device, training: TrainingUse | None) -> tuple[tuple[str, int], ...]:
    """Flash that two copies of the trained values take from the program."""
    from targets.store import store_bytes

    lost = store_bytes(device, training.state_bytes) if training else 0
    return (("trained values", lost),) if lost else ()


def flash_memory(device: Device, parts: tuple[tuple[str, int], ...]) -> MemoryUse:
    """The flash, with `parts` of a firmware in it, what others reserve, and the update slots."""
    bank = device.flash
    before = bank.reserved_bytes + device.vector_offset
    others = [("reserved", before)] if before else []
    others += [("update slots", sum(slot.size_bytes for slot in device.slots))] if device.slots else []
    return MemoryUse(bank.name, "flash", bank.start, bank.size_bytes, (*others, *parts))


def ram_memories(device: Device, code: Footprint, arena_bytes: tuple[int, ...]) -> tuple[MemoryUse, ...]:
    """Every RAM region, and the main RAM where no tensor may lie in it."""
    rows = []
    regions = device.arena_regions()
    for index, bank in enumerate(regions):
        parts = (*runtime_parts(device, bank, code), ("arena", arena_bytes[index]))
        rows.append(MemoryUse(bank.name, "ram", bank.start, bank.size_bytes, parts, index))
    main = device.main_ram
    if all(bank.start != main.start for bank in regions):
        rows.append(MemoryUse(main.name, "ram", main.start, main.size_bytes, runtime_parts(device, main, code)))
    return tuple(rows)


def _arrange(wish: Wish, calls: Mapping[str, Asks | None], regions: tuple[Region, ...]) -> Arrangement:
    return arrange(
        wish.graph, calls, regions, keep_input=wish.keep_input, in_place=wish.in_place, order=wish.order, alignment=wish.alignment
    )  # fmt: skip


def main_memory(device: Device) -> Memory:
    """The RAM of a computer: the largest one it has."""
    return max((m for m in device.memories if m.kind == "ram"), key=lambda m: m.size_bytes)


def _assess_linux(wish: Wish) -> Needs:
    """Weights and the peak of activations by liveness. An engine's own buffers are its business and not counted here."""
    bank = main_memory(wish.device)
    calls = default_calls(wish.graph)
    weights = sum(t.size_bytes for t in wish.graph.constants())
    regions = (Region(bank.name, max(0, bank.usable_bytes - weights)),)
    arrangement = _arrange(replace(wish, alignment=BASE_ALIGNMENT), calls, regions)
    parts = [("reserved", bank.reserved_bytes)] if bank.reserved_bytes else []
    parts += [("weights", weights), ("arena", arrangement.layout.arena_bytes[0])]
    memory = MemoryUse(bank.name, "ram", bank.start, bank.size_bytes, tuple(parts), 0)
    return Needs(arrangement, calls, Footprint(0, 0, 0, 0, 0), None, (memory,))
