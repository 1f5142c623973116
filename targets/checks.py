"""What must hold of a device: each check returns one sentence about the first thing that is wrong, or None."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from targets.device import Device

KINDS = ("mcu", "linux")
MEMORY_KINDS = ("flash", "ram")
ROLES = ("code", "data", "stack", "arena")
LINK_KINDS = ("serial", "usb", "ssh", "local")
ARCHS = (
    "armv6-m", "armv7-m", "armv7e-m", "armv8-m.main", "armv8.1-m.main", "armv8-a", "xtensa-lx7", "riscv32imc", "riscv64",
    "x86-64", "unknown",
)
ISA = ("dsp", "fpu-sp", "fpu-dp", "mve", "pie", "neon", "dotprod", "fp16", "i8mm", "sse4.2", "avx2", "fma", "avx512f", "avx512-vnni")
# Cores the emulated board can be, and what they are.
EMULATED_ARCHS = {
    "cortex-m0plus": "armv6-m", "cortex-m3": "armv7-m", "cortex-m4": "armv7e-m", "cortex-m7": "armv7e-m", "cortex-m33": "armv8-m.main",
}


def check_choices(device: Device) -> str | None:
    """Every word that must be one of a list is."""
    asked: list[tuple[str, str, tuple[str, ...]]] = [("kind", device.kind, KINDS)]
    asked += [("kind of memory " + m.name, m.kind, MEMORY_KINDS) for m in device.memories]
    asked += [("role of memory " + m.name, role, ROLES) for m in device.memories for role in m.roles]
    asked += [("kind of link " + link.name, link.kind, LINK_KINDS) for link in device.links]
    asked += [("arch of core " + core.name, core.arch, ARCHS) for core in device.cores]
    asked += [("isa of core " + core.name, token, ISA) for core in device.cores for token in core.isa]
    for what, value, allowed in asked:
        if value not in allowed:
            close = difflib.get_close_matches(value, allowed, n=1)
            return f'the {what} is "{value}" and must be one of {", ".join(allowed)}' + (f'; did you mean "{close[0]}"?' if close else ".")
    return None


def check_present(device: Device) -> str | None:
    """There is something to run on and somewhere to put it."""
    if not device.cores:
        return "there is no [[cores]]; a device has at least one."
    if not device.memories:
        return "there is no [[memories]]; a device has at least one."
    if not device.backends:
        return "backends is empty; name at least one, most liked first."
    return None


def check_sizes(device: Device) -> str | None:
    """Memories have bytes left, inside the address space, and cores exist."""
    for core in device.cores:
        if core.count < 1:
            return f"the core {core.name} has count = {core.count} and must have at least 1."
    top = 1 << (32 if device.kind == "mcu" else 52)
    for memory in device.memories:
        if memory.size_bytes == 0 or memory.reserved_bytes >= memory.size_bytes:
            return (
                f"of the {memory.size_bytes} bytes of the memory {memory.name}, {memory.reserved_bytes} are reserved, "
                "so none is left; mend size_bytes."
            )
        if memory.end > top:
            bits = top.bit_length() - 1
            return f"the memory {memory.name} ends at {memory.end:#x}, beyond {bits}-bit addresses; mend start or size_bytes."
    return None


def check_overlap(device: Device) -> str | None:
    """No two memories of a bare board share an address (on Linux devices addresses mean nothing)."""
    banks = sorted(device.memories, key=lambda m: m.start) if device.kind == "mcu" else []
    for low, high in itertools.pairwise(banks):
        if low.end > high.start:
            return f"the memories {low.name} and {high.name} overlap at {high.start:#x}; mend start or size_bytes."
    return None


def check_roles(device: Device) -> str | None:
    """A bare board has exactly one place for code, one for the stack, and one at least for tensors."""
    if device.kind != "mcu":
        return None
    for role, kind in (("code", "flash"), ("stack", "ram")):
        holders = [m.name for m in device.memories if role in m.roles and m.kind == kind]
        if len(holders) != 1:
            return f'{len(holders)} {kind} memories have the role "{role}" and it must be exactly one.'
    if not device.arena_regions():
        return 'no RAM has the role "arena", so no tensor has a place; add it to the roles of a memory.'
    ram = device.main_ram
    if device.stack_bytes >= ram.usable_bytes:
        return f"stack_bytes is {device.stack_bytes} and {ram.name} has {ram.usable_bytes} bytes in all; make the stack smaller."
    if device.vector_offset >= device.flash.usable_bytes:
        return f"vector_offset is {device.vector_offset}, outside the {device.flash.usable_bytes} bytes of the flash; mend one of them."
    return None


def check_emulator(device: Device) -> str | None:
    """The core to emulate is one that can be."""
    if device.emulator is not None and device.emulator.cpu not in EMULATED_ARCHS:
        return f'emulator.cpu is "{device.emulator.cpu}" and must be one of {", ".join(EMULATED_ARCHS)}.'
    return None


def check_sectors(device: Device) -> str | None:
    """Where sectors are listed they fill their memory exactly."""
    for memory in device.memories:
        total = sum(size * count for size, count in memory.sectors)
        if memory.sectors and total != memory.size_bytes:
            return f"the sectors of {memory.name} add up to {total} bytes and its size_bytes is {memory.size_bytes}; mend one of them."
    return None


def check_slots(device: Device) -> str | None:
    """Update slots lie inside the flash."""
    for slot in device.slots:
        flash = device.flash
        if slot.start < flash.usable_start or slot.start + slot.size_bytes > flash.end:
            return f"the slot {slot.name} lies outside the flash {flash.usable_start:#x}..{flash.end:#x}; mend its start or size_bytes."
    return None


def check_rates(device: Device) -> str | None:
    """A measured rate is named after what was measured and on how many threads, and is above 0."""
    for rate in device.rates:
        wanted = "bytes_s" if rate.name.startswith("memcpy/") else "macs_s"
        if not re.fullmatch(r"(memcpy|[a-z-]+/[a-z0-9-]+)/[1-9][0-9]*t", rate.name):
            return f'the rate "{rate.name}" must be called memcpy/<threads>t or <engine>/<precision>/<threads>t, such as onnx/int8/4t.'
        if not getattr(rate, wanted) or (rate.bytes_s is not None and rate.macs_s is not None):
            return f"the rate {rate.name} needs {wanted} above 0 and nothing else; measure it with embarq calibrate."
    return None


def check_sources(device: Device) -> str | None:
    """Each number names a source, and each source is explained."""
    for path, fact in device.facts.items():
        for key in fact.source.split(","):
            if key.strip() not in device.sources:
                return f'the source "{key.strip()}" of {path} is not in [sources]; explain it there.'
    return None


CHECKS = (
    check_present, check_choices, check_sizes, check_overlap, check_roles, check_emulator, check_sectors, check_slots, check_rates,
    check_sources,
)


