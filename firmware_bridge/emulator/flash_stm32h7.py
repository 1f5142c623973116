"""Flash controller of the STM32H7: two banks, each with its lock, its status and a buffer that gathers one flash word. See flash_stm32.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from firmware_bridge.emulator.flash import FlashArray
from firmware_bridge.emulator.flash_stm32 import BUSY_LOOKS, Lock


@dataclass
class _Bank:
    lock: Lock = field(default_factory=Lock)
    cr: int = 1
    sr: int = 0
    busy: int = 0
    gathered: dict[int, bytes] = field(default_factory=dict)


@dataclass
class BankFlash:
    """STM32H7: two banks with registers of their own, words of 16 or 32 bytes. KEYR 0x04, CR 0x0C, SR 0x10, CCR 0x14."""

    cells: FlashArray
    errors_ignored: Callable[[], bool]
    word_bytes: int
    start_bit: int
    sector_bit: int
    base: int = 0x52002000
    banks: list[_Bank] = field(default_factory=lambda: [_Bank(), _Bank()])
    others: dict[int, int] = field(default_factory=dict)

    def owns(self, address: int) -> bool:
        """Two blocks of 0x100 bytes."""
        return self.base <= address < self.base + 0x200

    def reset(self) -> None:
        """Locked, no error."""
        self.banks, self.others = [_Bank(), _Bank()], {}

    def load(self, address: int) -> int:
        """Status, control, or what was last stored."""
        self.cells.settle()
        bank = self.banks[(address - self.base) >> 8]
        match address - self.base & 0xFF:
            case 0x0C:
                return bank.cr
            case 0x10:
                bank.busy, was = max(bank.busy - 1, 0), bank.busy
                return bank.sr | (5 if was else 0) | (2 if bank.gathered else 0)
        return self.others.get(address, 0)

    def store(self, address: int, value: int) -> None:
        """Keys, control, cleared errors."""
        self.cells.settle()
        number = (address - self.base) >> 8
        bank = self.banks[number]
        match address - self.base & 0xFF:
            case 0x04:
                bank.lock.key(value)
                bank.cr = bank.cr & ~1 | bank.lock.locked
            case 0x0C if not bank.lock.locked:
                bank.cr = value & ~(1 << self.start_bit)
                if value & 1:
                    bank.lock.close()
                if value & 1 << self.start_bit and value & 4:
                    self._erase(number, value >> self.sector_bit & 0x7F)
            case 0x0C:
                pass
            case 0x14:
                bank.sr &= ~value
            case _:
                self.others[address] = value

    def _erase(self, number: int, sector: int) -> None:
        bank, flash = self.banks[number], self.cells.device.flash
        if bank.busy or bank.cr & 2:
            bank.sr |= 1 << 18
            return
        bank.busy = BUSY_LOOKS
        bank.sr |= 1 << 16 if self.cells.erase(flash.start + number * flash.size_bytes // 2 + sector * flash.sectors[0][0]) else 1 << 17

    def write(self, address: int, size: int, value: int) -> bool:
        """32-bit parts of a flash word, in order; the last one starts the programming."""
        self.cells.settle()
        flash = self.cells.device.flash
        bank = self.banks[(address - flash.start) * 2 // flash.size_bytes]
        if bank.lock.locked or not bank.cr & 2:
            return False
        self.cells.keep(address, size)
        start = address - address % self.word_bytes
        if size != 4 or any(place - place % self.word_bytes != start for place in bank.gathered):
            bank.sr |= 1 << 21
            bank.gathered = {}
            return True
        bank.gathered[address] = value.to_bytes(4, "little")
        if len(bank.gathered) * 4 == self.word_bytes:
            data = b"".join(part for _, part in sorted(bank.gathered.items()))
            bank.gathered = {}
            self._program(bank, start, data)
        return True

    def _program(self, bank: _Bank, address: int, data: bytes) -> None:
        self.cells.settle()
        bank.busy = BUSY_LOOKS
        bank.sr |= 1 << 16 if self.cells.program(address, data, deferred=True) else 1 << 17

    def damage_read(self) -> bool:
        """DBECCERR, and a bus error unless those are ignored."""
        for bank in self.banks:
            bank.sr |= 1 << 26
        return self.errors_ignored()
