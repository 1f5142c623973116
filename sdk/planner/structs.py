"""Sizes of the runtime's C structs, read from the header the device's compiler reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

INCLUDE = Path(__file__).resolve().parents[1] / "runtime" / "include"
HEADERS = ("embarq.h", "embarq_training.h", "embarq_kernels.h", "embarq_training_kernels.h")
#: (size, alignment) of the C types on 32-bit Arm.
BASE: Mapping[str, tuple[int, int]] = {
    "char": (1, 1), "int8_t": (1, 1), "uint8_t": (1, 1), "int16_t": (2, 2), "uint16_t": (2, 2), "int32_t": (4, 4), "uint32_t": (4, 4),
    "int64_t": (8, 8), "uint64_t": (8, 8), "float": (4, 4), "double": (8, 8), "size_t": (4, 4), "int": (4, 4), "embarq_ref": (4, 4),
    "embarq_kernel": (4, 4),
}  # fmt: skip
POINTER = (4, 4)


@cache
def struct_sizes() -> Mapping[str, int]:
    """C struct name -> bytes on a 32-bit target, for every struct of the runtime's headers."""
    text = "\n".join((INCLUDE / name).read_text() for name in HEADERS if (INCLUDE / name).is_file())
    return {name: size for name, (size, _) in parse_structs(text).items()}


def parse_structs(text: str) -> dict[str, tuple[int, int]]:
    """Name -> (size, alignment) of every `typedef struct {...} name;` in C text, in order, so that structs may nest.

    >>> parse_structs("typedef struct { int32_t a[2], *b; uint8_t c; } pair;")["pair"]
    (16, 4)
    """
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    numbers = {name: int(value, 0) for name, value in re.findall(r"#define\s+(\w+)\s+(\d\w*?)[uUlL]*\s", text)}
    known = dict(BASE)
    found: dict[str, tuple[int, int]] = {}
    for body, name in re.findall(r"typedef\s+struct\s*\w*\s*\{([^{}]*)\}\s*(\w+)\s*;", text):
        found[name] = known[name] = _layout(body, known, numbers)
    return found


def _layout(body: str, known: Mapping[str, tuple[int, int]], numbers: Mapping[str, int]) -> tuple[int, int]:
    size, widest = 0, 1
    for declaration in filter(None, (d.strip() for d in body.split(";"))):
        kind, names = re.match(r"(?:const\s+)?(?:struct\s+)?(\w+)\s*(?:const\b)?\s*(.*)", declaration, re.DOTALL).groups()  # type: ignore[union-attr]
        for name in names.split(","):
            bytes_each, alignment = POINTER if "*" in name else known.get(kind, POINTER)
            count = 1
            for length in re.findall(r"\[\s*(\w+)\s*\]", name):
                count *= int(length) if length.isdigit() else numbers[length]
            size = -(-size // alignment) * alignment + bytes_each * count
            widest = max(widest, alignment)
    return -(-size // widest) * widest, widest
