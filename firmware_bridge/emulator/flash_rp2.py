"""The flash chip beside an RP2040 or RP2350 and the part of the boot ROM that writes it.

The ROM is a page of our own at address 0 with the lookup the datasheets give (RP2040 2.8.3, RP2350 5.4): each function is a return
behind a place that is watched, so that Python does the work. Between leaving and entering the mapped mode nothing can be read from
the flash, and a program that tries crashes, as on the board.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from firmware_bridge.emulator.flash import FlashArray

PAGE = 256
SECTOR = 4096
RETURN = b"\x70\x47"  # bx lr
TABLE, FIRST = 0x40, 0x100  # where the table and the functions stand in our ROM
LOOKUP_40, LOOKUP_50 = 0x80, 0x90
CODES = ("IF", "EX", "FC", "CX", "RE", "RP")
SAVED_SETUP = 0x400E0000  # RP2350: boot RAM
SETUP_DONE = 0x400E0FFC  # a word of that page which our saved set-up writes, nothing on the chip


@dataclass
class BootRom:
    """`cpu` and `api` run the board; `mapped(on)` lets the flash be read, or not."""

    cells: FlashArray
    cpu: Any
    api: Any
    mapped: Callable[[bool], None]
    registers: dict[int, int] = field(default_factory=dict)
    entered: bool = True
    _image: Any = None

    def install(self) -> None:
        """Maps the ROM and watches its functions."""
        rom = bytearray(b"\x00" * 0x1000)
        struct.pack_into("<HHH", rom, 0x14, TABLE, LOOKUP_50 | 1, LOOKUP_40 | 1)
        for index, code in enumerate(CODES):
            place = FIRST + 16 * index
            struct.pack_into("<HH", rom, TABLE + 4 * index, ord(code[0]) | ord(code[1]) << 8, place | 1)
            rom[place : place + 2] = RETURN
        rom[LOOKUP_40 : LOOKUP_40 + 2] = rom[LOOKUP_50 : LOOKUP_50 + 2] = RETURN
        self.cpu.mem_map(0, 0x1000, self.api.UC_PROT_READ | self.api.UC_PROT_EXEC)
        self.cpu.mem_write(0, bytes(rom))
        self.cpu.hook_add(self.api.UC_HOOK_CODE, self._called, begin=LOOKUP_40, end=0xFFF)
        self.reset()

    def owns(self, address: int) -> bool:
        """The RP2350's boot RAM, which keeps the code that sets the mapped mode up."""
        return self.cells.device.family == "rp2350" and SAVED_SETUP <= address < SAVED_SETUP + 0x1000

    def reset(self) -> None:
        """As the boot ROM leaves it: the flash is mapped. ldr r0,[pc,#4]; movs r1,#1; str r1,[r0]; bx lr; .word SETUP_DONE"""
        words = struct.unpack("<3I", bytes.fromhex("0148012101607047") + struct.pack("<I", SETUP_DONE))
        self.registers = {SAVED_SETUP + 4 * k: word for k, word in enumerate(words)}
        self._map(True)

    def load(self, address: int) -> int:
        """A word of the boot RAM."""
        return self.registers.get(address, 0)

    def store(self, address: int, value: int) -> None:
        """Our saved set-up tells that it ran."""
        if address == SETUP_DONE:
            self._map(self.entered)

    def write(self, address: int, size: int, value: int) -> bool:
        """The chip cannot be written by a plain store."""
        return False

    def damage_read(self) -> bool:
        """The chip checks nothing."""
        return True

    def _map(self, on: bool) -> None:
        self.entered = on
        self.mapped(on)

    def _argument(self, index: int) -> int:
        return int(self.cpu.reg_read(self.api.UC_ARM_REG_R0 + index))

    def _called(self, cpu: Any, address: int, size: int, data: Any) -> None:
        if address in (LOOKUP_40, LOOKUP_50):
            code = self._argument(1 if address == LOOKUP_40 else 0)
            found = [FIRST + 16 * i | 1 for i, name in enumerate(CODES) if ord(name[0]) | ord(name[1]) << 8 == code]
            cpu.reg_write(self.api.UC_ARM_REG_R0, found[0] if found else 0)
            return
        index = (address - FIRST) // 16
        if address >= FIRST and index < len(CODES):
            self._do(CODES[index])

    def _do(self, code: str) -> None:
        match code:
            case "EX":
                self._map(False)
            case "CX":
                self._map(True)
            case "RE" if not self.entered:
                start = self.cells.device.flash.start + self._argument(0)
                for at in range(start, start + self._argument(1), SECTOR):
                    self.cells.erase(at)
            case "RP" if not self.entered:
                start, source, count = (self._argument(i) for i in range(3))
                data = bytes(self.cpu.mem_read(source, count))
                for at in range(0, count, PAGE):
                    self.cells.program(self.cells.device.flash.start + start + at, data[at : at + PAGE])
