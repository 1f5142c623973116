"""Static stack use of a linked Armv6-M/v7-M/v8-M firmware, read off its instructions: an upper bound, not a measurement.

A function's frame is what its `push`, `vpush` and `sub sp` instructions take; the depth of a function is its frame and
the deepest of what it calls. A tail call (`b` to another function) is counted as a call. Recursion is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdk.backends.firmware.images import symbols
from sdk.errors import EmbarqError, ToolError


@dataclass(frozen=True)
class Function:
    """Frame in bytes, the functions called by name, and whether it calls through a pointer."""

    frame: int
    calls: frozenset[str]
    indirect: bool


@dataclass
class CallGraph:
    """Every function of one ELF."""

    functions: Mapping[str, Function]
    _depths: dict[str, int] = field(default_factory=dict)

    def depth(self, name: str, trail: tuple[str, ...] = ()) -> int:
        """Bytes of stack that `name` and the deepest of its direct calls take."""
        if name in trail:
            raise EmbarqError(f"the firmware recurses through {' -> '.join((*trail, name))}, so its stack has no bound")
        if name not in self.functions:
            return 0
        if name not in self._depths:
            function = self.functions[name]
            self._depths[name] = function.frame + max((self.depth(c, (*trail, name)) for c in function.calls), default=0)
        return self._depths[name]

    def uncalled(self) -> set[str]:
        """Functions nobody calls by name: entry points, and what is called through a pointer."""
        called = {c for function in self.functions.values() for c in function.calls}
        return set(self.functions) - called


def call_graph(elf: Path) -> CallGraph:
    """Decode every function of `elf`. Needs capstone (the development extra); raises `ToolError` without it."""
    try:
        import capstone
    except ImportError as error:
        raise ToolError('reading stack use off a firmware needs capstone; run: pip install "embarq[dev]"') from error
    from elftools.elf.elffile import ELFFile

    decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    decoder.skipdata = True
    with elf.open("rb") as stream:
        text = ELFFile(stream).get_section_by_name(".text")
        if text is None:
            raise EmbarqError(f"{elf.name} has no .text section, so its stack cannot be read off")
        base, code = int(text["sh_addr"]), text.data()
    entries = {address: name for name, (address, size) in symbols(elf).items() if size and base <= address < base + len(code) and name[0] != "$"}
    sizes = symbols(elf)
    found = {}
    for address, name in entries.items():
        body = code[address - base : address - base + sizes[name][1]]
        found[name] = _function(name, list(decoder.disasm(body, address)), entries)
    return CallGraph(found)


def _function(name: str, instructions: list, entries: Mapping[int, str]) -> Function:  # type: ignore[type-arg]
    frame, calls, indirect = 0, set(), False
    for i in instructions:
        frame += _pushed(i.mnemonic.split(".")[0], i.op_str)
        if (i.mnemonic.startswith("blx") and not i.op_str.startswith("#")) or (re.match(r"bx(\.|$)", i.mnemonic) and i.op_str not in ("lr", "pc")):
            indirect = True
        elif re.match(r"b(l|lx|\.w)?$|b(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)(\.w)?$", i.mnemonic) and i.op_str.startswith("#"):
            target = entries.get(int(i.op_str[1:], 16) & ~1)
            if target and target != name:
                calls.add(target)
    return Function(frame, frozenset(calls), indirect)


def _pushed(mnemonic: str, operands: str) -> int:
    """Bytes one instruction takes off the stack pointer."""
    if mnemonic in ("push", "stmdb") and (mnemonic == "push" or operands.startswith("sp!")):
        return 4 * _registers(operands)
    if mnemonic == "vpush":
        return (8 if "d" in operands else 4) * _registers(operands)
    if mnemonic in ("sub", "subw") and (match := re.match(r"sp,(?: sp,)? #(\w+)$", operands)):
        return int(match.group(1), 0)
    if mnemonic in ("str", "strd") and (match := re.search(r"\[sp, #-(\w+)\]!", operands)):
        return int(match.group(1), 0)
    return 0


def _registers(operands: str) -> int:
    """How many registers `{r4, r5-r7, lr}` lists."""
    count = 0
    for part in operands[operands.index("{") + 1 : operands.index("}")].split(","):
        first, _, last = part.strip().partition("-")
        count += int(last.lstrip("rds")) - int(first.lstrip("rds")) + 1 if last else 1
    return count
