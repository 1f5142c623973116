"""What stands on the bus besides memory: plain registers, the bits that hardware sets by itself, counters, system control.

Only the pages listed here exist; an access anywhere else is a fault, as on the board.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from firmware_bridge.emulator.flash import Controller
from targets.device import Device

# 4 KiB pages of peripherals that the start-up code of each family touches (and its GPIO), besides the UART.
PAGES: Mapping[str, tuple[int, ...]] = {
    "stm32f4": (0x40000000, 0x40007000, 0x40020000, 0x40023000),
    "stm32f7": (0x40007000, 0x40020000, 0x40023000),
    "stm32h7": (0x58020000, 0x58024000, 0x52002000),
    "stm32l4": (0x40007000, 0x40021000, 0x40022000, 0x48001000),
    "nrf52": (0x40000000, 0x4001E000, 0x50000000),
    "nrf53": (0x50001000, 0x50005000, 0x50039000, 0x50842000),
    "rp2040": (0x18000000, 0x4000C000, 0x40008000, 0x40014000, 0x4001C000, 0x40024000, 0x40028000, 0x40054000, 0x40058000),
    "rp2350": (0x40010000, 0x40020000, 0x40028000, 0x40038000, 0x40048000, 0x40050000, 0x400E0000),
    "cmsdk": (0x40000000, 0x58000000, 0x58100000),
}


def _mirror(mask: int, shift: int) -> Callable[[int], int]:
    """Hardware that answers each bit of `mask` with the bit `shift` places above it: 'on' with 'ready'."""
    return lambda value: value & ~(mask << shift) | (value & mask) << shift


def _always(bits: int) -> Callable[[int], int]:
    return lambda value: value | bits



# Address -> what a load sees of the value that was stored.
READY: Mapping[str, Mapping[int, Callable[[int], int]]] = {
    "stm32f4": {0x40023800: _mirror(0x05010001, 1), 0x40023808: _mirror(3, 2)},
    "stm32f7": {0x40023800: _mirror(0x15010001, 1), 0x40023808: _mirror(3, 2), 0x40007004: _always(3 << 16)},
    "stm32h7": {
        0x58024400: lambda value: value | (value & 1) << 2 | (value & 1 << 24) << 1,
        0x58024410: _mirror(7, 3),
        0x58024818: _always(1 << 13),
    },
    "stm32l4": {
        0x40021000: lambda value: value | (value & 1 << 8) << 2 | (value & 1 << 24) << 1,
        0x40021008: _mirror(3, 2),
    },
    "nrf52": {0x40000100: _always(1)},
    "nrf53": {0x50005100: _always(1)},
    "rp2040": {
        0x4000C008: _always(0xFFFFFFFF), 0x40024004: _always(1 << 31), 0x40028000: _always(1 << 31),
        0x40008038: _always(0xF), 0x40008044: _always(0xF),
    },
    "rp2350": {
        0x40020008: _always(0xFFFFFFFF), 0x40048004: _always(1 << 31), 0x40050000: _always(1 << 31),
        0x40010038: _always(0xF), 0x40010044: _always(0xF),
    },
}

RESET_VALUES: Mapping[str, Mapping[int, int]] = {
    "stm32f4": {0x40023800: 0x83}, "stm32f7": {0x40023800: 0x83}, "stm32l4": {0x40021000: 0x63},
}

CPUID = {
    "cortex-m0plus": 0x410CC601, "cortex-m3": 0x412FC230, "cortex-m4": 0x410FC241, "cortex-m7": 0x411FC272, "cortex-m33": 0x410FD214,
    "cortex-m55": 0x411FD221,
}


@dataclass
class Bus:
    """Loads and stores of peripheral registers."""

    device: Device
    now: Callable[[], int]  # executed instructions, or cycles
    reset_requested: Callable[[], None]
    fpu_switched: Callable[[bool], None] = lambda on: None
    flash: Controller | None = None
    registers: dict[int, int] = field(default_factory=dict)
    counters: dict[int, int] = field(default_factory=dict)  # address -> value of now() when it read 0

    def __post_init__(self) -> None:
        self._ready = READY.get(self.device.family, {})
        self._times = _times(self.device)
        self.reset()

    def reset(self) -> None:
        """Every register as after a reset; counters begin at 0."""
        self.registers = {0xE000ED00: CPUID.get(self.device.core.name, 0), **RESET_VALUES.get(self.device.family, {})}
        self.counters = {}
        self.fpu_switched(False)
        if self.flash is not None:
            self.flash.reset()

    def pages(self) -> tuple[int, ...]:
        """Pages to map, the system control space and the DWT among them."""
        return tuple(sorted({*PAGES.get(self.device.family, ()), 0xE000E000, 0xE0001000}))

    def load(self, address: int) -> int:
        """What a 32-bit load from a register sees."""
        if self.flash is not None and self.flash.owns(address):
            return self.flash.load(address) & 0xFFFFFFFF
        if address in self._times:
            return self._times[address](self.now()) & 0xFFFFFFFF
        match address:
            case 0xE0001004:  # DWT CYCCNT
                return (self.now() - self.counters.get(address, 0)) & 0xFFFFFFFF
            case 0xE000E018:  # SysTick: counts down from the reload value
                reload = self.registers.get(0xE000E014, 0) & 0xFFFFFF
                return (reload - (self.now() - self.counters.get(address, 0))) % (reload + 1)
        value = self.registers.get(address, 0)
        return self._ready[address](value) & 0xFFFFFFFF if address in self._ready else value

    def store(self, address: int, value: int) -> None:
        """A 32-bit store to a register."""
        if self.flash is not None and self.flash.owns(address):
            self.flash.store(address, value)
            return
        self.registers[address] = value
        match address:
            case 0xE0001004:
                self.counters[address] = self.now() - value
            case 0xE000E018:
                self.counters[address] = self.now()
            case 0xE000ED0C if value & 0xFFFF0004 == 0x05FA0004:  # AIRCR: VECTKEY and SYSRESETREQ
                self.reset_requested()
            case 0xE000ED88:  # CPACR
                self.fpu_switched(value >> 20 & 0xF == 0xF)
            case 0xE000ED28:  # CFSR: written bits are cleared
                self.registers[address] = 0


def _times(device: Device) -> dict[int, Callable[[int], int]]:
    """Free-running counters of a board, from executed instructions, at the rate QEMU's -icount gives them (PAGES name the chip)."""
    clock_hz = device.core.clock_hz or 1
    match device.family:
        case "stm32f4":
            return {0x40000024: lambda now: now}  # TIM2 CNT
        case "cmsdk":  # 64 ns an instruction: timer 0 counts down at 25 MHz, the system counter of SSE-300 up at 32 MHz
            return {0x40000004: lambda now: -1 - now * 8 // 5, 0x58000000: lambda now: now * 2048 // 1000}
        case "rp2040":
            return {0x40054028: lambda now: now * 1_000_000 // clock_hz}  # TIMERAWL: microseconds
    return {}
