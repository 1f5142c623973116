"""Bytes of code and stack that each C function takes, measured from real builds, with a marked estimate where none was.

`sdk/kernels/measured.json` holds {compiler: {"sources": hash, "bases": {device: {...}}, core: {function: {...}}}}, made by
`make measure` from C and flags with that hash; a core's key is its name, architecture and sorted extensions, as `isa_key`
writes it. A base is everything but the kernels: start-up, bridge, main.
Per entry: "text" (code), "rodata" (constants of the code itself), "data", "bss", "stack" (deepest use, callees included).
A kernel's "needs" are the functions it brings beside "text", name -> bytes: what several kernels need is counted once.
The base's "callback_stack" is the deepest function that is called through a pointer; its "learning" what the bridge of a model that
learns takes besides. Where they were measured, a kernel also
has "cycles_per_mac", "cycles_per_element", "cycles_per_call".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from targets.device import Core, Device

FILE = Path(__file__).resolve().parents[1] / "kernels" / "measured.json"
#: Used where nothing was measured, and said so in the plan's decisions.
BASE_ESTIMATE: Mapping[str, Any] = {"text": 9000, "rodata": 1200, "data": 16, "bss": 1600, "stack": 700}
#: What an interrupt pushes before its handler runs: 26 words with the FPU's registers, and a word of alignment.
EXCEPTION_FRAME = 108
LEARNING_ESTIMATE: Mapping[str, int] = {"text": 3600, "rodata": 160, "data": 0, "bss": 48, "stack": 400}
KERNEL_ESTIMATE: Mapping[str, int] = {"text": 1400, "rodata": 0, "data": 0, "bss": 0, "stack": 200}


@dataclass(frozen=True)
class Footprint:
    """Code, constants, initialised and zeroed data, and stack of a set of functions; `estimated` names those not measured."""

    text: int
    rodata: int
    data: int
    bss: int
    stack: int
    estimated: tuple[str, ...] = ()
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False, repr=False)


def isa_key(core: Core) -> str:
    """`Core("cortex-m4", "armv7e-m", ("fpu-sp", "dsp"))` -> "cortex-m4:armv7e-m+dsp+fpu-sp": compilers schedule by the core's name."""
    return f"{core.name}:" + "+".join((core.arch, *sorted(core.isa)))


@cache
def load_measured(path: Path = FILE) -> Mapping[str, Any]:
    """The file's content; empty where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def _base(device: Device, bases: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The base of this device or, for a board of the user's own, of a shipped one with the same start-up code and core."""
    if device.name in bases:
        return bases[device.name]
    kin = (base for base in bases.values() if (base["family"], base["core"]) == (device.family, isa_key(device.core)))
    return next(kin, None)


def footprint(
    device: Device, compiler: str, functions: Sequence[str], measured: Mapping[str, Any] | None = None, learns: bool = False
) -> Footprint:
    """What the firmware of `functions` takes on `device`: the base and each function once; the stack is base + the deepest.
    learns: with what a model that learns takes of the bridge and the board."""
    table = load_measured() if measured is None else measured
    entries: Mapping[str, Any] = table.get(compiler, {}).get(isa_key(device.core), {})
    names = list(dict.fromkeys(functions))
    measured_base = _base(device, table.get(compiler, {}).get("bases", {}))
    base = measured_base or BASE_ESTIMATE
    kernels = [entries.get(name, KERNEL_ESTIMATE) for name in names]
    needs: dict[str, int] = {}
    for kernel in kernels:
        needs.update(kernel.get("needs", {}))
    learning: Mapping[str, Any] = base.get("learning", LEARNING_ESTIMATE) if learns else {}
    guessed = (*(() if measured_base else ("base",)), *(("learning",) if learning is LEARNING_ESTIMATE else ()))
    missing = (*guessed, *(name for name in names if name not in entries))

    def total(key: str) -> int:
        return int(base.get(key, 0)) + int(learning.get(key, 0)) + sum(int(k.get(key, 0)) for k in kernels)

    deepest = max((int(k.get("stack", 0)) for k in kernels), default=0)
    stack = int(base.get("stack", 0)) + int(learning.get("stack", 0)) + int(base.get("callback_stack", 0)) + deepest + EXCEPTION_FRAME
    return Footprint(total("text") + sum(needs.values()), total("rodata"), total("data"), total("bss"), stack, missing, entries)
