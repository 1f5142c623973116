"""A crash of the emulated board in one sentence: what was tried, where, in which function and layer."""

from __future__ import annotations

from typing import Any

from firmware_bridge.emulator.elf import Program
from targets.device import Device

STACK_REACH = 65536  # an access this close below the stack is taken for its overflow


def explain_fpu(device: Device, program: Program, pc: int) -> str:
    """The sentence for an FPU that is used before it is on."""
    return f"{device.name} crashed at {program.place(pc)}: the FPU was used before CPACR switched it on; do that in the reset handler."


def explain_damage(device: Device, program: Program, pc: int, address: int) -> str:
    """The sentence for flash that a cut of the power left damaged and that was read unprepared."""
    return (
        f"{device.name} crashed at {program.place(pc)}: it read flash at {address:#010x} that a cut of the power left damaged; "
        "read it with board_flash_read."
    )


def explain(
    device: Device, program: Program, api: Any, errno: int, access: tuple[int, int, int] | None, pc: int, caller: int, layer: str
) -> str:
    """The sentence for BoardFault."""
    what = _what(device, program, api, errno, access, pc)
    called = program.function_at(caller & ~1)
    parts = [f"{device.name} crashed at {program.place(pc)}"]
    if called is not None and called != program.function_at(pc):
        parts.append(f"called from {called.name}")
    if layer:
        parts.append(f"in {layer}")
    return f"{', '.join(parts)}: {what}"


def _what(device: Device, program: Program, api: Any, errno: int, access: tuple[int, int, int] | None, pc: int) -> str:
    address, size = (access[1], access[2]) if access else (pc, 2)
    limit = program.symbols.get("__stack_limit")
    top = program.symbols.get("__stack_top")
    stacked = errno in (api.UC_ERR_READ_UNMAPPED, api.UC_ERR_WRITE_UNMAPPED)
    if stacked and limit and top and limit.address - STACK_REACH <= address < limit.address:
        return f"the stack overflowed its {top.address - limit.address} bytes (access to {address:#010x}); give it more."
    match errno:
        case api.UC_ERR_READ_UNMAPPED:
            return f"it read {size} bytes at {address:#010x}, where {device.name} has nothing."
        case api.UC_ERR_WRITE_UNMAPPED:
            return f"it wrote {size} bytes at {address:#010x}, where {device.name} has nothing."
        case api.UC_ERR_WRITE_PROT:
            return f"it wrote {size} bytes at {address:#010x}, which is flash."
        case api.UC_ERR_FETCH_UNMAPPED | api.UC_ERR_FETCH_PROT:
            return f"it jumped to {address:#010x}, where no code can be."
        case api.UC_ERR_INSN_INVALID:
            if device.emulator and device.emulator.lacks:
                lacks = ", ".join(device.emulator.lacks)
                return f"the emulated core, a {device.emulator.cpu} without {lacks}, lacks the instruction there; build for as_emulated()."
            return f"the instruction there is not one that a {device.core.name} has."
        case api.UC_ERR_EXCEPTION:
            return "it raised an exception that nothing handles (SVC, BKPT or a return from no interrupt)."
    return f"the emulator stopped with its error {errno}."
