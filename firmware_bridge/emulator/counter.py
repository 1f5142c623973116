"""Counting executed instructions at the speed of the emulator: the host's half of counter.c.

Counts are exact: every executed instruction is one, also a conditional one that does nothing (as QEMU counts them).
Cycles are an estimate from the class of each instruction, see CYCLE_MODELS: they know no wait states, caches or stalls.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdk.errors import ToolError

STEPS = 4096  # values of the step variable that are told apart; the last stands for "outside of every step"
SOURCE = Path(__file__).with_name("counter.c")


@dataclass(frozen=True)
class CycleModel:
    """Cycles of each class of instruction. `multiple` is the part of an LDM that does not depend on its length N: it takes multiple + N."""

    load: int = 2
    load_again: int = 1  # right behind another load or store
    store: int = 1
    multiple: int = 1
    branch_taken: int = 2  # on top of the branch's own cycle
    multiply: int = 1
    divide: int = 7  # 2 to 12, by the operands
    float_op: int = 1
    float_mac: int = 3
    float_divide: int = 14


# cortex-m4: technical reference manual, tables 3-1 and 7-1. The others are estimates of ours in the same terms:
# the M7 and M55 as if they issued one instruction a cycle with every branch predicted, which is an upper bound of
# what the core itself takes; the M33 like the M4; the M0+ has a two-stage pipeline and, on the RP2040, a one-cycle multiplier.
CYCLE_MODELS = {
    "cortex-m0plus": CycleModel(load=2, load_again=2, store=2, branch_taken=1),
    "cortex-m3": CycleModel(multiply=2),
    "cortex-m4": CycleModel(),
    "cortex-m33": CycleModel(),
    "cortex-m7": CycleModel(load=1, multiple=0, branch_taken=0, float_mac=1),
    "cortex-m55": CycleModel(load=1, multiple=0, branch_taken=0, float_mac=1),
}


class _Costs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in CycleModel.__dataclass_fields__]


class _Block(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("size", "instructions", "cycles", "floats")] + [
        (name, ctypes.c_uint64) for name in ("executed", "executed_cycles")
    ]


class Counter(ctypes.Structure):
    """The C struct of the same name."""

    _fields_ = [
        ("instructions", ctypes.c_uint64), ("cycles", ctypes.c_uint64), ("limit", ctypes.c_uint64),
        ("step_instructions", ctypes.c_uint64 * STEPS), ("step_cycles", ctypes.c_uint64 * STEPS),
        ("emu_stop", ctypes.c_void_p), ("code", ctypes.c_void_p), ("step", ctypes.c_void_p), ("blocks", ctypes.POINTER(_Block)),
        ("code_start", ctypes.c_uint32), ("code_end", ctypes.c_uint32), ("last_start", ctypes.c_uint32), ("last_size", ctypes.c_uint32),
        ("stop", ctypes.c_uint32), ("stopped", ctypes.c_uint32), ("fpu_on", ctypes.c_uint32), ("fpu_trap", ctypes.c_uint32),
        ("cost", _Costs),
    ]

    def decode(self, code: bytes) -> tuple[int, int]:
        """(instructions, cycles) of a straight run of Thumb code, no branch taken."""
        instructions, cycles = ctypes.c_uint32(), ctypes.c_uint32()
        library().count_decode(ctypes.byref(self), code, ctypes.c_uint32(len(code)), ctypes.byref(instructions), ctypes.byref(cycles))
        return instructions.value, cycles.value

    def uncount(self, code: bytes) -> None:
        """Takes back the end of the last block, which did not execute after all."""
        instructions, cycles = self.decode(code)
        self.instructions -= instructions
        self.cycles -= cycles

    def clear(self) -> None:
        """Everything back to 0: instructions, cycles, steps, blocks."""
        self.instructions = self.cycles = self.last_size = 0
        ctypes.memset(self.step_instructions, 0, ctypes.sizeof(self.step_instructions))
        ctypes.memset(self.step_cycles, 0, ctypes.sizeof(self.step_cycles))
        ctypes.memset(self.blocks, 0, ctypes.sizeof(_Block) * ((self.code_end - self.code_start) // 2))


def make_counter(core: str, code_start: int, code_end: int, code_pointer: int, step_pointer: int, emu_stop: Any) -> Counter:
    """A Counter for code in [code_start, code_end), whose bytes stand at `code_pointer` in this process."""
    blocks = (_Block * ((code_end - code_start) // 2 + 1))()
    counter = Counter(
        emu_stop=ctypes.cast(emu_stop, ctypes.c_void_p), code=code_pointer, step=step_pointer or None,
        blocks=ctypes.cast(blocks, ctypes.POINTER(_Block)), code_start=code_start, code_end=code_end,
        cost=_costs(core), limit=1 << 63,
    )
    counter.keep = blocks  # a ctypes pointer does not keep what it points to
    return counter


def _costs(core: str) -> _Costs:
    model = CYCLE_MODELS.get(core, CycleModel())
    return _Costs(**{name: getattr(model, name) for name in CycleModel.__dataclass_fields__})


def count_code(core: str, code: bytes) -> tuple[int, int]:
    """(instructions, cycles) that a straight run of Thumb code takes on a core, no branch taken."""
    return Counter(cost=_costs(core)).decode(code)


@cache
def library() -> ctypes.CDLL:
    """counter.c as a library of this computer; built once and kept in the user's cache. Raises ToolError when it cannot be."""
    text = SOURCE.read_bytes()
    key = hashlib.sha256(text + f"{sysconfig.get_platform()} {sys.maxsize}".encode()).hexdigest()[:16]
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    target = _cache_folder() / f"counter-{key}{suffix}"
    if not target.exists():
        _build(target)
    return ctypes.CDLL(str(target))


def _cache_folder() -> Path:
    from platformdirs import user_cache_path

    for folder in (user_cache_path("embarq"), Path(tempfile.gettempdir()) / f"embarq-{os.getpid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
        except OSError:
            continue
    raise ToolError("The emulated board builds a small helper and found no folder to write it to; set XDG_CACHE_HOME to a writable one.")


def _build(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-o", str(made), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not made.exists():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ToolError(f'The emulated board needs ziglang to build its counter and got "{reason}"; pip install "embarq[firmware]".')
        os.replace(made, target)  # two processes may build at once: the last one wins, both files are the same
