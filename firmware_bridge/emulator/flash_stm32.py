"""Flash controllers of the STM32F4, F7 and L4: keys, erase, programming, busy flags, write protection, errors that stay until cleared.

Addresses and bits from the reference manuals named in targets/boards/*/flash.c. A register written while locked stays as it was;
a wrong key locks the controller until the next reset. A store to the flash while programming is off is refused, which the board tells
as a crash (the chips set an error flag instead, so a stray store is found here and lost there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from firmware_bridge.emulator.flash import FlashArray

KEYS = (0x45670123, 0xCDEF89AB)
BUSY_LOOKS = 2  # a status register says busy so many times after an operation: who does not wait is found out


@dataclass
class Lock:
    """The key register: two words in order open it."""

    locked: bool = True
    _right: int = 0

    def key(self, value: int) -> None:
        """A store to the key register."""
        self._right = self._right + 1 if self._right < 2 and value == KEYS[self._right] else 3
        self.locked = self._right != 2

    def close(self) -> None:
        """LOCK was set."""
        self.locked, self._right = True, 0 if self._right == 2 else self._right


@dataclass
class SectorFlash:
    """STM32F4 and F7: words, large sectors. SR 0x0C: EOP 0, WRPERR 4, PGAERR 5, PGPERR 6, PGSERR 7, BSY 16; CR 0x10."""

    cells: FlashArray
    base: int = 0x40023C00
    lock: Lock = field(default_factory=Lock)
    cr: int = 1 << 31
    sr: int = 0
    busy: int = 0
    others: dict[int, int] = field(default_factory=dict)

    def owns(self, address: int) -> bool:
        """0x20 bytes of registers."""
        return self.base <= address < self.base + 0x20

    def reset(self) -> None:
        """Locked, no error."""
        self.lock, self.cr, self.sr, self.busy, self.others = Lock(), 1 << 31, 0, 0, {}

    def load(self, address: int) -> int:
        """Status, control, or what was last stored."""
        self.cells.settle()
        match address - self.base:
            case 0x0C:
                self.busy, was = max(self.busy - 1, 0), self.busy
                return self.sr | (1 << 16 if was else 0)
            case 0x10:
                return self.cr
        return self.others.get(address, 0)

    def store(self, address: int, value: int) -> None:
        """Keys, cleared errors, control."""
        self.cells.settle()
        match address - self.base:
            case 0x04:
                self.lock.key(value)
                self.cr = self.cr & ~(1 << 31) | self.lock.locked << 31
            case 0x0C:
                self.sr &= ~value
            case 0x10 if not self.lock.locked:
                self._control(value)
            case 0x10:
                pass
            case _:
                self.others[address] = value

    def _control(self, value: int) -> None:
        self.cr = value & ~(1 << 16)
        if value >> 31:
            self.lock.close()
        if value & 1 << 16 and value & 2:
            self._erase(value >> 3 & 0x1F)

    def _erase(self, number: int) -> None:
        if self.busy or self.cr & 1:
            self.sr |= 1 << 7
            return
        self.busy = BUSY_LOOKS
        start = self.cells.device.flash.start
        for size, count in self.cells.device.flash.sectors:
            if number < count:
                self.sr |= 1 if self.cells.erase(start + number * size) else 1 << 4
                return
            start, number = start + size * count, number - count
        self.sr |= 1 << 7

    def write(self, address: int, size: int, value: int) -> bool:
        """A word, while PG is set and words are what is programmed."""
        self.cells.settle()
        if self.lock.locked or not self.cr & 1:
            return False
        if size != 4 or address % 4 or self.cr >> 8 & 3 != 2 or self.cr & 2:
            self.sr |= 1 << 6
            self.cells.keep(address, size)
        elif self.cells.program(address, value.to_bytes(4, "little"), deferred=True):
            self.sr |= 1
            self.busy = BUSY_LOOKS
        else:
            self.sr |= 1 << 4
        return True

    def damage_read(self) -> bool:
        """These chips check nothing."""
        return True


@dataclass
class PageFlash:
    """STM32L4+ with two banks: pages of 4 KiB, 8 bytes at once into erased cells only. SR 0x10, CR 0x14, ECCR 0x18, OPTR 0x20."""

    cells: FlashArray
    nmi_taken: Callable[[], bool]
    base: int = 0x40022000
    lock: Lock = field(default_factory=Lock)
    cr: int = 1 << 31
    sr: int = 0
    eccr: int = 0
    optr: int = 0xFFEFF8AA  # as delivered: two banks
    busy: int = 0
    first: tuple[int, bytes] | None = None
    others: dict[int, int] = field(default_factory=dict)

    def owns(self, address: int) -> bool:
        """0x30 bytes of registers."""
        return self.base <= address < self.base + 0x30

    def reset(self) -> None:
        """Locked, no error."""
        self.lock, self.cr, self.sr, self.eccr, self.busy, self.first, self.others = Lock(), 1 << 31, 0, 0, 0, None, {}

    def load(self, address: int) -> int:
        """Status, control, what the check found."""
        self.cells.settle()
        match address - self.base:
            case 0x10:
                self.busy, was = max(self.busy - 1, 0), self.busy
                return self.sr | (1 << 16 if was else 0)
            case 0x14:
                return self.cr
            case 0x18:
                return self.eccr
            case 0x20:
                return self.optr
        return self.others.get(address, 0)

    def store(self, address: int, value: int) -> None:
        """Keys, cleared errors, control."""
        self.cells.settle()
        match address - self.base:
            case 0x08:
                self.lock.key(value)
                self.cr = self.cr & ~(1 << 31) | self.lock.locked << 31
            case 0x10:
                self.sr &= ~value
            case 0x14 if not self.lock.locked:
                self.cr, self.first = value & ~(1 << 16), None
                if value >> 31:
                    self.lock.close()
                if value & 1 << 16 and value & 2:
                    self._erase(value >> 3 & 0xFF, value >> 11 & 1)
            case 0x18:
                self.eccr &= ~(value & 0xF0000000)
            case 0x14 | 0x20:
                pass
            case _:
                self.others[address] = value

    def _erase(self, page: int, bank: int) -> None:
        if self.busy or self.sr & 0xC3FA:
            self.sr |= 1 << 7
            return
        self.busy = BUSY_LOOKS
        flash = self.cells.device.flash
        self.sr |= 1 if self.cells.erase(flash.start + bank * flash.size_bytes // 2 + page * flash.sectors[0][0]) else 1 << 4

    def write(self, address: int, size: int, value: int) -> bool:
        """The halves of 8 bytes, lower one first."""
        self.cells.settle()
        if self.lock.locked or not self.cr & 1:
            return False
        self.cells.keep(address, size)
        first, self.first = self.first, None
        if size != 4:
            self.sr |= 1 << 6
        elif first is None and address % 8 == 0:
            self.first = address, value.to_bytes(4, "little")
        elif first is None or address != first[0] + 4 or self.sr & 0xC3FA:
            self.sr |= 1 << 5
        else:
            self._program(first[0], first[1] + value.to_bytes(4, "little"))
        return True

    def _program(self, address: int, data: bytes) -> None:
        self.cells.settle()
        if self.cells.memory.read(address, 8) != b"\xff" * 8 and any(data):
            self.sr |= 1 << 3
            return
        self.busy = BUSY_LOOKS
        # the upper half's store is still to come: both are put right once it has been made
        self.sr |= 1 if self.cells.program(address, data, deferred=True) else 1 << 4

    def damage_read(self) -> bool:
        """ECCD, and an NMI."""
        self.eccr |= 1 << 31
        return self.nmi_taken()
