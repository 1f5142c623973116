"""Times of operations out of an ETDump, the FlatBuffer that ExecuTorch's event tracer writes (schema: its devtools/etdump).

Read here, for ExecuTorch's own reader wants pandas. Only what times need is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

IDENTIFIER = b"ED00"
#: Fields by their place in the schema's tables.
DUMP_RUNS, RUN_NAME, RUN_EVENTS, EVENT_PROFILE = 1, 0, 3, 0
NAME, INSTRUCTION, DELEGATE_INT, DELEGATE_TEXT, START, END = 0, 2, 3, 4, 6, 7
#: Events that hold others: told only where nothing inside them was.
OUTER = ("DELEGATE_CALL", "OPERATOR_CALL")
WHOLE = ("Method::", "Program::")
KERNEL = "native_call_"


class _Table:
    """A FlatBuffer's table; a field that is not there reads as None."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - self._read("<i", at)

    def _read(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, self.data, at)[0])

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry >= self._read("<H", self.fields):
            return None
        offset = self._read("<H", self.fields + entry)
        return self.at + offset if offset else None

    def _target(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + self._read("<I", place)

    def number(self, field: int, kind: str, default: int) -> int:
        """A scalar of struct format `kind`."""
        place = self._place(field)
        return default if place is None else self._read(kind, place)

    def text(self, field: int) -> str | None:
        """A string."""
        place = self._target(field)
        return None if place is None else self.data[place + 4 : place + 4 + self._read("<I", place)].decode(errors="replace")

    def table(self, field: int) -> _Table | None:
        """A table."""
        place = self._target(field)
        return None if place is None else _Table(self.data, place)

    def tables(self, field: int) -> Iterator[_Table]:
        """A vector of tables."""
        place = self._target(field)
        for index in range(0 if place is None else self._read("<I", place)):
            entry = place + 4 + 4 * index  # type: ignore[operator]
            yield _Table(self.data, entry + self._read("<I", entry))


def runs(data: bytes) -> list[list[dict[str, Any]]]:
    """For each inference its events {"name", "instruction", "inner" (of a delegate or a kernel), "ms"}; raises ValueError where this is no ETDump."""
    start = 4 if data[8:12] == IDENTIFIER else 0  # with its size in front, or without
    if data[start + 4 : start + 8] != IDENTIFIER:
        raise ValueError("it is no ETDump")
    try:
        root = _Table(data, start + struct.unpack_from("<I", data, start)[0])
        return [list(_events(run)) for run in root.tables(DUMP_RUNS) if run.text(RUN_NAME) == "Execute"]
    except struct.error as error:
        raise ValueError("it is cut short") from error


def _events(run: _Table) -> Iterator[dict[str, Any]]:
    for event in run.tables(RUN_EVENTS):
        found = event.table(EVENT_PROFILE)
        if found is None:
            continue
        delegate = found.text(DELEGATE_TEXT) or ""
        number = found.number(DELEGATE_INT, "<i", -1)
        name = found.text(NAME) or delegate or (str(number) if number >= 0 else "")
        inner = bool(delegate) or number >= 0 or name.startswith(KERNEL)
        spent = found.number(END, "<Q", 0) - found.number(START, "<Q", 0)
        yield {"name": name, "instruction": found.number(INSTRUCTION, "<i", -1), "inner": inner, "ms": spent / 1e6}


def operation_times(data: bytes, repeats: int) -> list[dict[str, Any]]:
    """Mean ms of every operation over the last `repeats` inferences, in order of execution: {"name", "op", "ms"}."""
    kept = runs(data)[-repeats:]
    times: dict[tuple[int, str], float] = {}
    for run in kept:
        told = {event["instruction"] for event in run if event["inner"]}
        for event in run:
            if event["name"].startswith(WHOLE) or (event["name"] in OUTER and event["instruction"] in told):
                continue
            key = (event["instruction"], event["name"])
            times[key] = times.get(key, 0.0) + event["ms"] / len(kept)
    ordered = sorted(times.items(), key=lambda row: row[0][0])  # by instruction; within one as they came
    return [{"name": name, "op": _op(name), "ms": ms} for (_, name), ms in ordered]


def _op(name: str) -> str:
    """ "Convolution (NHWC, F32) IGEMM #2" -> "Convolution (NHWC, F32) IGEMM"; "native_call_add.out" -> "add.out"."""
    head, _, number = name.rpartition(" #")
    return (head if head and number.isdigit() else name).removeprefix(KERNEL)
