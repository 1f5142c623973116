"""The board's flash as its own program sees it: cells that only an erase sets to ones, and a power line that can be cut.

A controller (flash_stm32.py, flash_nordic.py, flash_rp2.py) decides what a store or a register does; `FlashArray` carries it
out. One erase of a unit, and the programming of one unit, is one operation. Cut in the middle, an operation leaves bits that
are neither old nor new, and where the chip checks its words (`checked`) reading them is an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from firmware_bridge.emulator.memory import BoardMemory
from targets.device import Device


class Controller(Protocol):
    """What stands between the program and the cells."""

    def owns(self, address: int) -> bool:
        """True for a register of the controller."""

    def load(self, address: int) -> int:
        """What a load from a register sees."""

    def store(self, address: int, value: int) -> None:
        """A store to a register."""

    def write(self, address: int, size: int, value: int) -> bool:
        """A store to the flash itself; False: the bus refuses it, as it does while no programming is enabled."""

    def damage_read(self) -> bool:
        """Bytes that a cut left damaged were read; False: nothing was prepared for that, and the program crashes."""

    def reset(self) -> None:
        """Every register as after a reset."""


@dataclass
class FlashArray:
    """The cells. `write_protected`: numbers of erase units that refuse to change, as option bytes say."""

    device: Device
    memory: BoardMemory
    power_lost: Callable[[], None]
    checked: bool = False
    operations: int = 0
    write_protected: set[int] = field(default_factory=set)
    damaged: list[tuple[int, int]] = field(default_factory=list)  # [start, end)
    _left: int | None = None  # whole operations before the power goes
    _off: bool = False
    _pending: list[tuple[int, bytes]] = field(default_factory=list)
    _noise: random.Random = field(default_factory=lambda: random.Random(7))

    def cut_after(self, operations: int | None) -> None:
        """The power goes in the middle of the operation after so many more; None: it stays."""
        self._left = operations

    def power_on(self) -> None:
        """Current flows again; no cut is planned."""
        self._off, self._left = False, None

    def unit_at(self, address: int) -> tuple[int, int, int] | None:
        """(number, start, bytes) of the erase unit that holds an address; None outside of the flash."""
        start, number = self.device.flash.start, 0
        for size, count in self.device.flash.sectors:
            if start <= address < start + size * count:
                index = (address - start) // size
                return number + index, start + index * size, size
            start, number = start + size * count, number + count
        return None

    def erase(self, address: int) -> bool:
        """Sets a whole unit to ones. False when there is none, or it is write-protected."""
        self.settle()
        unit = self.unit_at(address)
        if unit is None or unit[0] in self.write_protected:
            return False
        _, start, size = unit
        match self._fate():
            case "done":
                self.memory.write(start, b"\xff" * size)
                self.damaged = [(low, high) for low, high in self.damaged if high <= start or low >= start + size]
            case "cut":
                old = self.memory.read(start, size)
                self.memory.write(start, bytes(byte | self._noise.getrandbits(8) for byte in old))
                self._note_damage(start, size)
        return True

    def program(self, address: int, data: bytes, deferred: bool = False) -> bool:
        """Clears bits. `deferred`: the processor's own store follows and is put right by `settle`. False when write-protected."""
        unit = self.unit_at(address)
        old = self.memory.read(address, len(data))
        allowed = unit is not None and unit[0] not in self.write_protected
        fate = self._fate() if allowed else "off"
        new = bytes(a & b for a, b in zip(old, data, strict=True))
        if fate == "cut":
            new = bytes(a & (b | self._noise.getrandbits(8)) for a, b in zip(old, data, strict=True))
            self._note_damage(address, len(data))
        elif fate == "off":
            new = old
        if deferred:
            self._pending.append((address, new))
        else:
            self.memory.write(address, new)
        return allowed

    def keep(self, address: int, size: int) -> None:
        """The processor's store that follows changes nothing yet."""
        self._pending.append((address, self.memory.read(address, size)))

    def settle(self) -> None:
        """What stands in the cells after stores that the processor has made meanwhile."""
        pending, self._pending = self._pending, []
        for address, data in pending:
            self.memory.write(address, data)

    def is_damaged(self, address: int, size: int) -> bool:
        """True where a cut left bits that a check finds."""
        return any(low < address + size and address < high for low, high in self.damaged)

    def _fate(self) -> str:
        """What becomes of the next operation: "done", "cut" in its middle, or nothing, because the power is "off"."""
        if self._off:
            return "off"
        if self._left is None or self._left > 0:
            self._left = None if self._left is None else self._left - 1
            self.operations += 1
            return "done"
        self._off = True
        self.power_lost()
        return "cut"

    def _note_damage(self, start: int, size: int) -> None:
        if self.checked:
            self.damaged.append((start, start + size))
