"""What a device has to spend, before any model."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.planner.assess import flash_memory, main_memory, ram_memories
from sdk.planner.measured import footprint
from sdk.planner.records import Budget, MemoryUse
from targets.device import Device


def budget(device: Device, compiler: str = "zig") -> Budget:
    """Each memory with what the runtime, the stack and others take of it, and what speed there is, with its source."""
    if device.kind == "mcu":
        code = footprint(device, compiler, [])
        fixed = tuple(part for part in (("code", code.text + code.rodata), ("data", code.data)) if part[1])
        memories = (flash_memory(device, fixed), *ram_memories(device, code, (0,) * len(device.arena_regions())))
        memories = tuple(_without_empty(m) for m in memories)
        estimated = bool(code.estimated)
    else:
        bank = main_memory(device)
        parts = (("reserved", bank.reserved_bytes),) if bank.reserved_bytes else ()
        memories, estimated = (MemoryUse(bank.name, "ram", bank.start, bank.size_bytes, parts, 0),), False
    unconfirmed = tuple(f"{path} = {fact.value}" for path, fact in sorted(device.unconfirmed().items()))
    return Budget(device, device.backends[0], memories, tuple(_facts(device)), unconfirmed, estimated)


def _without_empty(memory: MemoryUse) -> MemoryUse:
    parts = tuple((what, size) for what, size in memory.parts if size)
    return MemoryUse(memory.name, memory.kind, memory.start, memory.size_bytes, parts, memory.region)


def _facts(device: Device) -> Iterator[tuple[str, str, str]]:
    """(what, value, source) of the numbers that decide how fast a model runs."""
    for core in device.cores:
        count = f"{core.count} x " if core.count > 1 else ""
        clock = f" at {core.clock_hz / 1e6:g} MHz" if core.clock_hz else ", clock not confirmed"
        yield "core", f"{count}{core.name} ({' '.join((core.arch, *core.isa))}){clock}", _source(device, f"cores.{core.name}.clock_hz")
    for memory in device.memories:
        for key, what in (("bandwidth_bytes_s", "bandwidth"), ("memcpy_bytes_s", "copy"), ("memset_bytes_s", "fill")):
            rate = getattr(memory, key)
            if rate:
                yield f"{memory.name} {what}", f"{rate / 1e6:,.0f} MB/s", _source(device, f"memories.{memory.name}.{key}")
    for slot in device.slots:
        yield "update slot", f"{slot.name}: {slot.size_bytes:,} bytes at {slot.start:#x}", _source(device, f"slots.{slot.name}.size_bytes")
    for peer in device.peers:
        if peer.inferences_s:
            yield "published speed", f"{peer.model} by {peer.name}: {peer.inferences_s:g} inferences a second", _source(
                device, f"peers.{peer.name}.inferences_s"
            )


def _source(device: Device, path: str) -> str:
    fact = device.facts.get(path)
    return fact.source if fact else ""
