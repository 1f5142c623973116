"""A microcontroller board that is a program: its exact memory map, its UART, and a count of every instruction.

    board = EmulatedBoard("stm32f405", "firmware.elf")
    board.write(b"ping"); board.run(); board.take()          # run() ends when the firmware waits for input
    board.instructions, board.stack_peak_bytes(), board.steps()

A load, store or jump outside the board's memories raises BoardFault with the address, the function and the layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.emulator.counter import STEPS, library, make_counter
from firmware_bridge.emulator.elf import Program, Symbol, load_elf
from firmware_bridge.emulator.faults import explain, explain_damage, explain_fpu
from firmware_bridge.emulator.flash import FlashArray
from firmware_bridge.emulator.memory import PAGE, BoardMemory, Dma
from firmware_bridge.emulator.peripherals import Bus
from firmware_bridge.emulator.power import Power
from firmware_bridge.emulator.uarts import UART_MODELS, Port, Uart, make_uart
from sdk.errors import BoardFault, ToolError, UsageError
from targets.device import Device, load_device

PAINT = 0xA5  # what the stack is filled with, to see later how deep it went
SLICE = 100_000_000  # instructions between two chances for Ctrl-C: about a quarter of a second
CPUS = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33")


@dataclass(frozen=True)
class Cost:
    """What a part of the program took: executed instructions (exact) and cycles (an estimate, see counter.py)."""

    name: str
    instructions: int
    cycles: int


class EmulatedBoard:
    """The board, reset and ready to run. Raises ToolError without unicorn, UsageError for a program that is not for this board."""

    def __init__(
        self, device: Device | str, elf: bytes | str | Path, *, ticks: str = "instructions", step_symbol: str = "embarq_current_step",
        step_names: Sequence[str] = (), watch: bool = False,
    ) -> None:
        """`ticks`: what the board's counters count, "instructions" or "cycles". `watch`: note exactly which RAM is touched (slower)."""
        self.device = load_device(device)
        self.step_names = tuple(step_names)
        self.program = load_elf(elf)
        if ticks not in ("instructions", "cycles"):
            raise UsageError(f'ticks is "{ticks}" and must be "instructions" or "cycles".')
        self._ticks = ticks
        self._memory = BoardMemory(self.device)
        self._uc, self._api = _new_cpu(self.device)
        self._memory.map_into(self._uc, self._api)
        self._load()
        self._counter = self._new_counter(step_symbol)
        self._access: tuple[int, int, int] | None = None
        self._reset_wanted = self._idle = False
        self._hook()
        self.watched: dict[str, Any] = {}
        if watch:
            self._watch()
        self._map_peripherals()
        self.reset()

    # -- the line ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes for the board's UART; the board sees them when it runs."""
        self._port.received.extend(data)

    def take(self, max_bytes: int | None = None) -> bytes:
        """What the board has sent and nobody took yet."""
        size = len(self._port.sent) if max_bytes is None else max_bytes
        data = bytes(self._port.sent[:size])
        del self._port.sent[:size]
        return data

    # -- running -------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """As the reset line does: stack pointer and start address from the vector table. RAM and flash keep their content."""
        table = self.device.flash.usable_start + self.device.vector_offset
        stack, start = (int.from_bytes(self.read(table + at, 4), "little") for at in (0, 4))
        self._bus.reset()
        self._uc.reg_write(self._api.UC_ARM_REG_SP, stack)
        self._uc.reg_write(self._api.UC_ARM_REG_LR, 0xFFFFFFFF)
        self._pc = start & ~1
        self._counter.last_size = 0

    def cut_power_after(self, operations: int | None) -> None:
        """Lets the power go in the middle of an erase or programming of the flash, after so many more whole ones; None: never.
        One unit (`Device.flash.sectors`, `write_bytes`) is one operation; `flash.operations` counts those done so far."""
        self.flash.cut_after(operations)

    def power_on(self) -> None:
        """Current again: the flash as the cut left it, anything in RAM, nothing on the line; then a reset."""
        self._power.on()
        self._port.received.clear()
        self._port.sent.clear()
        self.reset()

    @property
    def flash(self) -> FlashArray:
        """The cells of the flash: count of operations, write protection."""
        return self._power.cells

    def run(self, max_instructions: int | None = None, until: Callable[[], bool] | None = None) -> str:
        """Runs until the firmware waits for input ("idle"), `until()` holds ("until"; asked between blocks of
        instructions), the limit is reached ("limit"), it sleeps for ever ("sleep") or the power is "off". Raises BoardFault when it
        crashes."""
        end = self._counter.instructions + max_instructions if max_instructions is not None else None
        self._idle = False
        while True:
            if self._power.off:
                return "off"
            if self._idle:
                return "idle"
            if until is not None and until():
                return "until"
            if end is not None and self._counter.instructions >= end:
                return "limit"
            step = SLICE if until is None else SLICE // 1000
            self._counter.limit = min(self._counter.instructions + step, end if end is not None else 1 << 63)
            if self._slice() and not self._reset_wanted:
                return "sleep"
            if self._reset_wanted and not self._power.off:
                self._reset_wanted = False
                self.reset()

    def _slice(self) -> bool:
        """Runs up to the counter's limit; True when the program went to sleep."""
        counter = self._counter
        counter.stop = counter.stopped = counter.fpu_trap = 0
        self._access = None
        try:
            self._uc.emu_start(self._pc | 1, 0xFFFFFFFF)
        except self._api.UcError as error:
            self._pc = self._uc.reg_read(self._api.UC_ARM_REG_PC)
            self._take_back()
            raise BoardFault(self._explain(error.errno)) from None
        finally:
            self._pc = self._uc.reg_read(self._api.UC_ARM_REG_PC)
            self.flash.settle()
        if counter.fpu_trap:
            raise BoardFault(explain_fpu(self.device, self.program, self._pc))
        if self._power.crash is not None:
            place, self._power.crash = self._power.crash, None
            raise BoardFault(explain_damage(self.device, self.program, self._pc, place))
        return not counter.stopped

    def _take_back(self) -> None:
        """The block in which a fault happened was counted whole: what follows the fault did not run."""
        counter = self._counter
        end = counter.last_start + counter.last_size
        if counter.last_start <= self._pc < end:
            flash = self.device.flash
            if flash.start <= self._pc < flash.end:
                counter.uncount(self.read(self._pc, end - self._pc))

    # -- what it did ---------------------------------------------------------------------------------------------------

    @property
    def instructions(self) -> int:
        """Executed instructions since the start or the last clear_counts()."""
        return int(self._counter.instructions)

    @property
    def cycles(self) -> int:
        """Estimated cycles of the same."""
        return int(self._counter.cycles)

    def clear_counts(self) -> None:
        """Sets every count to 0; the board's own counters jump with them."""
        self._counter.clear()

    def steps(self) -> list[Cost]:
        """Cost of each value the firmware gave its step variable, value 0 first; empty when the firmware has no such variable.
        What ran while the variable had a value of 4095 or more belongs to no step."""
        if not self._counter.step:
            return []
        used = [n for n in range(STEPS - 1) if self._counter.step_instructions[n]]
        return [
            Cost(self._step_name(n), int(self._counter.step_instructions[n]), int(self._counter.step_cycles[n]))
            for n in range((used[-1] if used else -1) + 1)
        ]

    def functions(self) -> list[Cost]:
        """Cost of each function, the most expensive first (what it calls not included)."""
        totals: dict[str, list[int]] = {}
        blocks = self._counter.blocks
        for index in range((self._counter.code_end - self._counter.code_start) // 2):
            block = blocks[index]
            if block.executed:
                function = self.program.function_at(self._counter.code_start + 2 * index)
                total = totals.setdefault(function.name if function else "?", [0, 0])
                total[0] += block.executed
                total[1] += block.executed_cycles
        return sorted((Cost(name, *total) for name, total in totals.items()), key=lambda cost: -cost.instructions)

    def stack_peak_bytes(self) -> int:
        """How deep the stack went: the lowest painted byte that was overwritten."""
        low, high = self.symbol("__stack_limit").address, self.symbol("__stack_top").address
        for index, byte in enumerate(self.read(low, high - low)):
            if byte != PAINT:
                return high - low - index
        return 0

    def paint_stack(self, below: int | None = None) -> None:
        """Forgets how deep the stack went: fills it again below an address (the stack pointer when not given)."""
        low = self.symbol("__stack_limit").address
        high = self._uc.reg_read(self._api.UC_ARM_REG_SP) if below is None else below
        self.poke(low, bytes([PAINT]) * max(high - low, 0))

    def arena_peak_bytes(self) -> tuple[int, ...]:
        """For each region how many bytes of its arena, from the start, were touched. Needs watch=True."""
        if not self.watched:
            raise UsageError("The arena's high-water mark is only noted by EmulatedBoard(..., watch=True); make the board that way.")
        peaks = []
        for index in range(len(self.device.arena_regions())):
            extent = self.watched.get(f".arena_{index}")
            start = self.symbol(f"__arena_{index}_start").address if extent is not None else 0
            peaks.append(int(extent[1]) - start if extent is not None and extent[1] else 0)
        return tuple(peaks)

    def symbol(self, name: str) -> Symbol:
        """The symbol of the program. Raises UsageError when there is none of that name."""
        if name not in self.program.symbols:
            raise UsageError(f"{self.program.name} has no symbol {name}; build it with symbols, and do not strip it.")
        return self.program.symbols[name]

    def read(self, place: int | str, size: int | None = None) -> bytes:
        """Bytes of a memory at an address or symbol (its whole size when `size` is not given)."""
        if isinstance(place, str):
            found = self.symbol(place)
            place, size = found.address, found.size_bytes if size is None else size
        return self._memory.read(place, size or 0)

    memory_read = read

    def poke(self, place: int | str, data: bytes) -> None:
        """Puts bytes into a memory at an address or symbol, also into flash."""
        self._memory.write(self.symbol(place).address if isinstance(place, str) else place, data)

    # -- making it -----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        flash = self.device.flash
        self._memory.write(flash.start, b"\xff" * flash.size_bytes)
        for segment in self.program.segments:
            if segment.address < flash.usable_start or segment.address + len(segment.data) > flash.end:
                raise UsageError(
                    f"{self.program.name} loads {len(segment.data)} bytes at {segment.address:#010x}, outside the flash of "
                    f"{self.device.name} ({flash.usable_start:#010x}..{flash.end:#010x}); build it for this board."
                )
            self.poke(segment.address, segment.data)
        if "__stack_limit" in self.program.symbols:
            self.paint_stack(self.symbol("__stack_top").address)

    def _new_counter(self, step_symbol: str) -> Any:
        ends = [s.address + len(s.data) for s in self.program.segments]
        flash = self.device.flash
        end = min(flash.end, max(ends, default=flash.start) + 1 & ~1)
        step = self.program.symbols.get(step_symbol)
        pointer = 0
        if step is not None:
            self.poke(step.address, b"\xff\xff\xff\xff")  # RAM begins with anything: no step, until start-up sets it
            pointer = self._memory.pointer(step.address, 4)
        code = self._memory.pointer(flash.start)
        return make_counter(self.device.core.name, flash.start, end, code, pointer, self._api.uclib.uc_emu_stop)

    def _hook(self) -> None:
        api = self._api
        api.add_native_hook(self._uc, api.UC_HOOK_BLOCK, library().count_block, ctypes.byref(self._counter), 1, 0)
        self._uc.hook_add(api.UC_HOOK_MEM_INVALID, self._note_access)

    def _note_access(self, uc: Any, kind: int, address: int, size: int, value: int, data: Any) -> bool:
        self._access = (kind, address, size)
        return self._power.accepts(kind, (address, size, value))

    def _watch(self) -> None:
        api = self._api
        for index in range(len(self.device.arena_regions())):
            names = (f"__arena_{index}_start", f"__arena_{index}_end")
            if not all(name in self.program.symbols for name in names):
                continue
            low, high = (self.symbol(name).address for name in names)
            if low < high:
                extent = (ctypes.c_uint64 * 2)(1 << 40, 0)
                self.watched[f".arena_{index}"] = extent
                api.add_native_hook(self._uc, api.UC_HOOK_MEM_READ | api.UC_HOOK_MEM_WRITE, library().count_access, extent, low, high - 1)

    def _now(self) -> int:
        return int(self._counter.cycles if self._ticks == "cycles" else self._counter.instructions)

    def _map_peripherals(self) -> None:
        self._port = Port(now=lambda: int(self._counter.instructions), idle=self._went_idle)
        self._power = Power(self.device, self._memory, self._uc, self._api, self._stop)
        self._bus = Bus(self.device, self._now, self._wants_reset, self._fpu_switched, self._power.controller)
        self._power.register = self._bus.load
        uarts = self._uarts()
        for page in sorted({*self._bus.pages(), *(base & ~(PAGE - 1) for base in uarts)}):
            here = {base - page: uart for base, uart in uarts.items() if page <= base < page + PAGE}
            self._uc.mmio_map(page, PAGE, self._loader(page, here), None, self._storer(page, here), None)

    def _uarts(self) -> dict[int, Uart]:
        found: dict[int, Uart] = {}
        for link in self.device.links:
            if link.uart:
                uart = make_uart(link.uart, self._port, Dma(self.device, self._memory))
                if uart is None:
                    raise UsageError(f'{self.device.name} has a UART of the model "{link.uart}"; known are {", ".join(UART_MODELS)}.')
                found[link.base] = uart
        return found

    def _loader(self, page: int, uarts: dict[int, Uart]) -> Callable[..., int]:
        def load(uc: Any, offset: int, size: int, data: Any) -> int:
            for base, uart in uarts.items():
                if base <= offset < base + 0x1000:
                    return uart.read(offset - base)
            word = self._bus.load(page + offset & ~3)
            return word >> 8 * (offset & 3)

        return load

    def _storer(self, page: int, uarts: dict[int, Uart]) -> Callable[..., None]:
        def store(uc: Any, offset: int, size: int, value: int, data: Any) -> None:
            for base, uart in uarts.items():
                if base <= offset < base + 0x1000:
                    uart.write(offset - base, value)
                    return
            self._bus.store(page + offset, value)

        return store

    def _stop(self) -> None:
        self._counter.stop = 1

    def _went_idle(self) -> None:
        self._idle = True
        self._stop()

    def _fpu_switched(self, on: bool) -> None:
        self._counter.fpu_on = int(on)

    def _wants_reset(self) -> None:
        self._reset_wanted = True
        self._stop()

    # -- faults --------------------------------------------------------------------------------------------------------

    def _step_name(self, step: int) -> str:
        return self.step_names[step] if step < len(self.step_names) else f"step {step}"

    def _explain(self, errno: int) -> str:
        step = ctypes.c_uint32.from_address(self._counter.step).value if self._counter.step else STEPS
        caller = self._uc.reg_read(self._api.UC_ARM_REG_LR)
        layer = self._step_name(step) if step < STEPS - 1 else ""
        return explain(self.device, self.program, self._api, errno, self._access, self._pc, caller, layer)


def _new_cpu(device: Device) -> tuple[Any, Any]:
    """unicorn's CPU for the device and the names used from unicorn's package."""
    try:
        from firmware_bridge.emulator import unicorn_api as api
    except ImportError:
        raise ToolError('The emulated board needs unicorn, which is not installed; pip install "embarq[firmware]".') from None
    if device.emulator is None or device.emulator.cpu not in CPUS:
        wanted = device.emulator.cpu if device.emulator else "none"
        raise UsageError(f"{device.name} cannot be emulated (its emulator.cpu is {wanted}); known are {', '.join(CPUS)}.")
    return api.new_cpu(device.emulator.cpu), api


__all__ = ["Cost", "EmulatedBoard", "Program"]
