"""Where the flash of a board keeps trained values: two slots of whole erase units, as few of them as will do.

    store_bytes("stm32f405", 20000)         # bytes of flash that a model which learns loses to them
    plan_store("stm32f405", 20000).slots    # ((start, size), (start, size))

PROTOCOL.md of firmware_bridge says what stands in a slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdk.errors import UsageError
from targets.device import Device, load_device

#: Families whose boards have a flash driver; on the others everything works but keeping values over a reset.
FLASH_FAMILIES = ("stm32f4", "stm32f7", "stm32h7", "stm32l4", "nrf52", "nrf53", "rp2040", "rp2350")
HEADER_BYTES = 64  # of a slot, in firmware_bridge/device/bridge_store.c
Slot = tuple[int, int]  # (start, bytes)


@dataclass(frozen=True)
class Store:
    """Two slots, and what they leave: the program may fill [code_start, code_end); with `apart` its vector table alone stands
    before them, at the start of the flash. `lost_bytes` of the usable flash are not the program's any more."""

    slots: tuple[Slot, Slot]
    code_start: int
    code_end: int
    lost_bytes: int

    @property
    def apart(self) -> bool:
        """True when the slots stand between the vector table and the program."""
        return self.code_start > self.slots[1][0]


def program_unit(device: Device | str) -> int:
    """Bytes that are programmed at once, and a word at least."""
    return max(load_device(device).flash.write_bytes, 4)


def can_keep(device: Device | str) -> bool:
    """True when the board's flash can be written by its own program."""
    device = load_device(device)
    return device.family in FLASH_FAMILIES and bool(device.flash.sectors)


def slot_bytes(device: Device | str, variable_bytes: int) -> int:
    """Bytes one copy takes: header and content, each from where programming can begin."""
    unit = program_unit(device)
    return max(HEADER_BYTES, unit) + -(-variable_bytes // unit) * unit


def store_bytes(device: Device | str, variable_bytes: int) -> int:
    """Bytes of flash that two copies of `variable_bytes` take from the program; 0 where the board cannot keep any, more than there
    are where they do not fit."""
    try:
        store = plan_store(device, variable_bytes)
    except UsageError:
        return load_device(device).flash.usable_bytes + 2 * slot_bytes(device, variable_bytes)
    return store.lost_bytes if store else 0


def plan_store(device: Device | str, variable_bytes: int) -> Store | None:
    """The slots for `variable_bytes`, at the end of the flash or behind the sector of the vector table, whichever loses less.

    None where the board cannot keep any, or there is nothing to keep. Raises UsageError when even an empty flash is too small.
    """
    device = load_device(device)
    if not can_keep(device) or not variable_bytes:
        return None
    units, need = _units(device), slot_bytes(device, variable_bytes)
    found = [store for store in (_at_end(units, need), _behind_vectors(device, units, need)) if store]
    if not found:
        raise UsageError(
            f"two copies of {variable_bytes} trained bytes do not fit into the {device.flash.usable_bytes} bytes of flash of {device.name}; "
            "train fewer layers or choose a device with more flash"
        )
    return min(found, key=lambda store: store.lost_bytes)


def _units(device: Device) -> list[Slot]:
    """The erase units that are ours, in order: behind what is reserved, before any update slot."""
    flash = device.flash
    end = min((slot.start for slot in device.slots), default=flash.end)
    units, start = [], flash.start
    for size, count in flash.sectors:
        for _ in range(count):
            if start >= flash.usable_start and start + size <= end:
                units.append((start, size))
            start += size
    return units


def _take(units: Sequence[Slot], need: int) -> int:
    """How many units from the first on hold `need` bytes; 0 when all together do not."""
    total = 0
    for count, (_, size) in enumerate(units, 1):
        total += size
        if total >= need:
            return count
    return 0


def _joined(units: Sequence[Slot]) -> Slot:
    return min(start for start, _ in units), sum(size for _, size in units)


def _at_end(units: list[Slot], need: int) -> Store | None:
    backwards = units[::-1]
    last = _take(backwards, need)
    first = _take(backwards[last:], need) if last else 0
    if not first or last + first >= len(units):
        return None
    slots = _joined(backwards[last : last + first]), _joined(backwards[:last])
    return Store(slots, units[0][0], slots[0][0], sum(size for _, size in slots))


def _behind_vectors(device: Device, units: list[Slot], need: int) -> Store | None:
    """Small sectors often stand first, and large ones last."""
    if device.vector_offset:
        return None
    first = _take(units[1:], need)
    second = _take(units[1 + first :], need) if first else 0
    if not second or 1 + first + second >= len(units):
        return None
    slots = _joined(units[1 : 1 + first]), _joined(units[1 + first : 1 + first + second])
    code_start = slots[1][0] + slots[1][1]
    return Store(slots, code_start, units[-1][0] + units[-1][1], code_start - units[0][0])
