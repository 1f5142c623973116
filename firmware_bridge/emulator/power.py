"""The power line of an emulated board and the flash behind it: what `EmulatedBoard` needs to lose current and find it again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from firmware_bridge.emulator.flash import Controller, FlashArray
from firmware_bridge.emulator.flash_nordic import Nvmc
from firmware_bridge.emulator.flash_rp2 import BootRom
from firmware_bridge.emulator.flash_stm32 import PageFlash, SectorFlash
from firmware_bridge.emulator.flash_stm32h7 import BankFlash
from firmware_bridge.emulator.memory import BoardMemory
from targets.device import Device

CHECKED = ("stm32h7", "stm32l4")  # families whose flash checks each word that is read
CCR, VTOR = 0xE000ED14, 0xE000ED08


class Power:
    """Flash, its controller, and whether current flows. `stop` ends the emulator's run before its next block of instructions."""

    def __init__(self, device: Device, memory: BoardMemory, cpu: Any, api: Any, stop: Callable[[], None]) -> None:
        self._device, self._memory, self._cpu, self._api, self._stop = device, memory, cpu, api, stop
        self.off = False
        self.crash: int | None = None  # address of damaged flash that was read unprepared
        self.register: Callable[[int], int] = lambda address: 0  # a register of the system control space
        self.cells = FlashArray(device, memory, self._lost, checked=device.family in CHECKED)
        self.controller = self._make()
        self._watched: set[tuple[int, int]] = set()
        self._noise = random.Random(11)
        if isinstance(self.controller, BootRom):
            self.controller.install()

    def accepts(self, kind: int, access: tuple[int, int, int]) -> bool:
        """True for a store to the flash, (address, size, value), that its controller takes."""
        address, size, value = access
        flash = self._device.flash
        if kind != self._api.UC_MEM_WRITE_PROT or not flash.start <= address < flash.end or self.controller is None:
            return False
        return self.controller.write(address, size, value & ((1 << 8 * size) - 1))

    def on(self) -> None:
        """Current flows again: RAM holds anything, damaged flash is watched."""
        self.off = False
        self.cells.settle()
        self.cells.power_on()
        self._memory.lose_ram(self._noise)
        for low, high in self.cells.damaged:
            if (low, high) not in self._watched:
                self._watched.add((low, high))
                self._cpu.hook_add(self._api.UC_HOOK_MEM_READ, self._read, begin=low, end=high - 1)

    def _lost(self) -> None:
        self.off = True
        self._stop()

    def _read(self, cpu: Any, kind: int, address: int, size: int, value: int, data: Any) -> None:
        if self.controller is not None and self.cells.is_damaged(address, size) and not self.controller.damage_read():
            self.crash = address
            self._stop()

    def _make(self) -> Controller | None:
        cells = self.cells
        match self._device.family:
            case "stm32f4" | "stm32f7":
                return SectorFlash(cells)
            case "stm32l4":
                return PageFlash(cells, self._takes_nmi)
            case "stm32h7":
                shifts = (5, 6) if "EMBARQ_H7A3" in self._device.defines else (7, 8)
                return BankFlash(cells, lambda: bool(self.register(CCR) >> 8 & 1), self._device.flash.write_bytes, *shifts)
            case "nrf52":
                return Nvmc(cells, 0x4001E000)
            case "nrf53":
                return Nvmc(cells, 0x50039000, erase_by_write=True)
            case "rp2040" | "rp2350":
                return BootRom(cells, self._cpu, self._api, self._map_flash)
        return None

    def _takes_nmi(self) -> bool:
        """True when the vector table has a handler of its own for the NMI."""
        table = self.register(VTOR)
        return self._memory.read(table + 8, 4) != self._memory.read(table + 12, 4)

    def _map_flash(self, readable: bool) -> None:
        flash, api = self._device.flash, self._api
        self._cpu.mem_protect(flash.start, flash.size_bytes, api.UC_PROT_READ | api.UC_PROT_EXEC if readable else api.UC_PROT_NONE)
