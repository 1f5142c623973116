"""The C that only a board needs: start-up, clock, UART; and the linker script made from its memory map.

    linker_script(load_device("stm32f405"))    # text for ld.lld and ld.bfd
    sources(device), defines(device), include_folders()
"""

from __future__ import annotations

from pathlib import Path

from sdk.errors import ToolError
from targets.device import Device, Link, Memory, load_device
from targets.store import Store, plan_store, program_unit

STM32 = ("common/stm32_usart.c",)
PL011 = ("common/pl011.c",)

# Files of each family, besides what every Cortex-M takes.
FAMILIES: dict[str, tuple[str, ...]] = {
    "stm32f4": ("stm32f4/board.c", "common/stm32_flash.c", *STM32),
    "stm32f7": ("stm32f7/board.c", "common/stm32_flash.c", *STM32),
    "stm32h7": ("stm32h7/board.c", "stm32h7/flash.c", *STM32),
    "stm32l4": ("stm32l4/board.c", "stm32l4/flash.c", *STM32),
    "nrf52": ("nrf52/board.c", "common/nrf_flash.c"),
    "nrf53": ("nrf53/board.c", "common/nrf_flash.c"),
    "rp2040": ("rp2040/board.c", "rp2040/boot2.c", "common/rp2_flash.c", *PL011),
    "rp2350": ("rp2350/board.c", "rp2350/image_def.c", "common/rp2_flash.c", *PL011),
    "cmsdk": ("cmsdk/board.c", "common/flash_none.c"),
}
COMMON = ("common/startup.c", "common/system.c")
UART_DEFINES = {"stm32-usart-v1": "EMBARQ_UART_V1"}
# What tells apart the flash of families that share a driver.
FLASH_DEFINES: dict[str, dict[str, str]] = {
    "stm32f7": {"EMBARQ_FLASH_M7": "1"},
    "stm32l4": {"EMBARQ_FLASH_NMI": "1"},
    "nrf52": {"EMBARQ_NVMC_BASE": "0x4001E000u"},
    "nrf53": {"EMBARQ_NVMC_BASE": "0x50039000u", "EMBARQ_NVMC_ERASE_BY_WRITE": "1", "EMBARQ_CACHE_INVALIDATE": "0x50001504u"},
    "rp2350": {"EMBARQ_RP2350": "1"},
}


def sources(device: Device | str) -> list[Path]:
    """The C files of the board. Raises ToolError for a board that takes the C library instead of a ready firmware."""
    device = load_device(device)
    return [include_folders()[0] / name for name in (*COMMON, *FAMILIES[_family(device)])]


def include_folders() -> list[Path]:
    """Folders for the compiler's -I: `#include "board.h"` is found in the first."""
    return [Path(__file__).resolve().parent]


def defines(device: Device | str) -> dict[str, str]:
    """Preprocessor definitions for `sources`: clock, UART address and speed, and what the device file adds."""
    device = load_device(device)
    link = uart(device)
    result = {
        "EMBARQ_CLOCK_HZ": f"{device.core.clock_hz}u",
        "EMBARQ_UART_BASE": f"{link.base:#x}u",
        "EMBARQ_UART_BAUD": f"{link.baud}u",
        "EMBARQ_FLASH_UNIT": f"{program_unit(device)}u",
    }
    if device.flash.sectors:
        result["EMBARQ_FLASH_BASE"] = f"{device.flash.start:#x}u"
        result["EMBARQ_FLASH_SECTORS"] = ",".join(f"{{{size}u,{count}u}}" for size, count in device.flash.sectors)
    if link.uart in UART_DEFINES:
        result[UART_DEFINES[link.uart]] = "1"
    return {**result, **FLASH_DEFINES.get(device.family, {}), **device.defines}


def uart(device: Device | str) -> Link:
    """The link that the board's UART carries. Raises ToolError when the device file names none."""
    device = load_device(device)
    for link in device.links:
        if link.uart:
            return link
    raise ToolError(f"{device.name} has no link with a UART to reach its firmware by; add uart and base to one of its [[links]].")


def _family(device: Device) -> str:
    if device.kind != "mcu":
        raise ToolError(f"{device.name} runs Linux and takes no firmware; choose another backend: {', '.join(device.backends)}.")
    if device.family not in FAMILIES:
        found = f"of the family {device.family}" if device.family else "without a family"
        raise ToolError(
            f"{device.name} ({found}) takes the C library, not a ready firmware; use the library output, "
            f"or a family that has start-up code: {', '.join(FAMILIES)}."
        )
    return device.family


def linker_script(device: Device | str, stack_bytes: int | None = None, variable_bytes: int = 0) -> str:
    """GNU ld script of the board.

    The stack stands first in the main RAM and grows down: an overflow leaves the RAM and faults instead of eating data.
    Then .data, .bss, .noinit and what of the arena lies in the main RAM. `.arena_<r>` is region r of `device.arena_regions()`.
    variable_bytes: of the values that a model learns; two slots of flash are set aside for them (targets.store).
    """
    device = load_device(device)
    _family(device)
    store = plan_store(device, variable_bytes)
    regions = device.arena_regions()
    main = device.main_ram
    banks = {main.name: main} | {bank.name: bank for bank in regions}
    names = {name: f"RAM{index}" for index, name in enumerate(banks)}
    stack = (device.stack_bytes if stack_bytes is None else stack_bytes) + 7 & ~7
    return "\n".join([
        "ENTRY(Reset_Handler)",
        "MEMORY {",
        *_flash_regions(device, store),
        *(_bank(names[name], bank, "rwx" if "code" in bank.roles else "rw") for name, bank in banks.items()),
        "}",
        "SECTIONS {",
        *_flash_sections(device, store),
        *_store_symbols(store),
        *_ram_sections(names[main.name], stack),
        *(line for index, bank in enumerate(regions) for line in _arena(index, names[bank.name])),
        "    /DISCARD/ : { *(.debug_*) *(.ARM.exidx*) *(.ARM.extab*) *(.comment) *(.ARM.attributes_unused) }",
        "}",
        "",
    ])


def _bank(name: str, bank: Memory, attributes: str) -> str:
    return f"    {name} ({attributes}) : ORIGIN = {bank.usable_start:#010x}, LENGTH = {bank.usable_bytes:#x}"


def _flash_regions(device: Device, store: Store | None) -> list[str]:
    """The program's flash; where slots stand between the vector table and the program, a region of the table's own."""
    if store is None:
        return [_bank("FLASH", device.flash, "rx")]
    start, end = store.code_start, store.code_end
    rows = [f"    FLASH (rx) : ORIGIN = {start:#010x}, LENGTH = {end - start:#x}"]
    if store.apart:
        first = device.flash.usable_start
        rows.insert(0, f"    VECTORS (rx) : ORIGIN = {first:#010x}, LENGTH = {store.slots[0][0] - first:#x}")
    return rows


def _store_symbols(store: Store | None) -> list[str]:
    """Both ends of each slot; equal where there is none."""
    slots = store.slots if store else ((0, 0), (0, 0))
    return [f"    __store_{k}_start = {start:#010x}; __store_{k}_end = {start + size:#010x};" for k, (start, size) in enumerate(slots)]


def _flash_sections(device: Device, store: Store | None) -> list[str]:
    before = ["    .boot2 ORIGIN(FLASH) : { KEEP(*(.boot2)) } > FLASH"] if device.vector_offset else []
    first = "VECTORS" if store and store.apart else "FLASH"
    return [
        *before,
        f"    .vectors ORIGIN({first}) + {device.vector_offset:#x} : {{ KEEP(*(.vectors)) KEEP(*(.image_def)) }} > {first}",
        "    .text : ALIGN(16) { __text_start = .; *(.text .text.*) . = ALIGN(4); __text_end = .; } > FLASH",
        "    .rodata : ALIGN(16) { __rodata_start = .; *(.rodata .rodata.*) . = ALIGN(4); __rodata_end = .; } > FLASH",
    ]


def _ram_sections(ram: str, stack: int) -> list[str]:
    return [
        f"    .stack ORIGIN({ram}) (NOLOAD) : {{ __stack_limit = .; . = . + {stack:#x}; __stack_top = .; }} > {ram}",
        f"    .data : ALIGN(8) {{ __data_start = .; *(.data .data.* .ramcode .ramcode.*) . = ALIGN(4); __data_end = .; }} > {ram} AT > FLASH",
        "    __data_load = LOADADDR(.data);",
        "    __flash_end = LOADADDR(.data) + SIZEOF(.data);",
        f"    .bss (NOLOAD) : ALIGN(8) {{ __bss_start = .; *(.bss .bss.* COMMON) . = ALIGN(4); __bss_end = .; }} > {ram}",
        f"    .noinit (NOLOAD) : ALIGN(8) {{ __noinit_start = .; *(.noinit .noinit.*) . = ALIGN(8); __noinit_end = .; }} > {ram}",
    ]


def _arena(index: int, ram: str) -> list[str]:
    name = f".arena_{index}"
    return [
        f"    {name} (NOLOAD) : ALIGN(16) {{ __arena_{index}_start = .; KEEP(*({name} {name}.*)) __arena_{index}_end = .; }} > {ram}",
    ]
