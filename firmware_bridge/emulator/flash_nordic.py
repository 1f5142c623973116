"""Nordic's NVMC: reading, writing or erasing is enabled, one at a time (nRF52840 product specification 4.3, nRF5340 7.23)."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.emulator.flash import FlashArray

READING, WRITING, ERASING = 0, 1, 2


@dataclass
class Nvmc:
    """READY 0x400, CONFIG 0x504, ERASEPAGE 0x508. `erase_by_write`: ones written to a page's first word erase it (nRF5340)."""

    cells: FlashArray
    base: int
    erase_by_write: bool = False
    mode: int = READING
    busy: int = 0

    def owns(self, address: int) -> bool:
        """0x400 to 0x50C; the cache's registers above are others'."""
        return self.base + 0x400 <= address < self.base + 0x50C

    def reset(self) -> None:
        """Reading only."""
        self.mode, self.busy = READING, 0

    def load(self, address: int) -> int:
        """READY and READYNEXT, CONFIG."""
        self.cells.settle()
        match address - self.base:
            case 0x400 | 0x408:
                self.busy, was = max(self.busy - 1, 0), self.busy
                return int(not was)
            case 0x504:
                return self.mode
        return 0

    def store(self, address: int, value: int) -> None:
        """The mode; a page to erase."""
        self.cells.settle()
        match address - self.base:
            case 0x504:
                self.mode = value & 3
            case 0x508 if self.mode == ERASING and not self.erase_by_write:
                self._erase(value)

    def _erase(self, address: int) -> None:
        self.busy = 2
        self.cells.erase(address)

    def write(self, address: int, size: int, value: int) -> bool:
        """A word while writing is enabled; anything else is a bus error."""
        self.cells.settle()
        if size != 4 or address % 4:
            return False
        unit = self.cells.unit_at(address)
        if self.mode == ERASING and self.erase_by_write and value == 0xFFFFFFFF and unit is not None and unit[1] == address:
            self._erase(address)
            self.cells.keep(address, size)
            return True
        if self.mode != WRITING:
            return False
        self.busy = 2
        self.cells.program(address, value.to_bytes(4, "little"), deferred=True)
        return True

    def damage_read(self) -> bool:
        """These chips check nothing."""
        return True
