"""Reading a device file: which keys it may have, what type each is, and one sentence for whatever is wrong.

A device file is TOML. Each number is written plainly, and then its source is the `source` key of the table it stands in,
or as `{ value = 480_000_000, source = "RM0433", confirmed = false }`. Source keys are explained in the `[sources]` table.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import DeviceFileError

# The type of each key; "!" marks the keys a complete file must have. "whole" is an integer >= 0, "number" also takes a
# fraction, "sectors" is a list of [bytes, count] pairs, "ids" a list of [vendor, product] pairs, "free" any text values.
KEYS: Mapping[str, Mapping[str, str]] = {
    "": {
        "name": "text!", "title": "text", "kind": "text!", "vendor": "text", "aliases": "texts", "extends": "text", "family": "text",
        "backends": "texts!", "vector_offset": "whole", "stack_bytes": "whole", "uf2_family": "whole", "source": "text", "detect": "flag",
    },
    "cores": {"name": "text!", "arch": "text!", "isa": "texts", "clock_hz": "whole", "count": "whole", "source": "text"},
    "memories": {
        "name": "text!", "kind": "text!", "start": "whole", "size_bytes": "whole!", "reserved_bytes": "whole", "roles": "texts",
        "sectors": "sectors", "write_bytes": "whole", "bandwidth_bytes_s": "number", "memcpy_bytes_s": "number",
        "memset_bytes_s": "number", "source": "text",
    },
    "links": {
        "name": "text!", "kind": "text!", "baud": "whole", "uart": "text", "base": "whole", "pins": "text", "usb_ids": "ids",
        "source": "text",
    },
    "accelerators": {
        "name": "text!", "kind": "text!", "count": "whole", "clock_hz": "whole", "float32_flop_s": "number", "float16_flop_s": "number",
        "int8_op_s": "number", "source": "text",
    },
    "rates": {"name": "text!", "macs_s": "number", "bytes_s": "number", "source": "text"},
    "slots": {"name": "text!", "start": "whole!", "size_bytes": "whole!", "source": "text"},
    "peers": {"name": "text!", "model": "text!", "inferences_s": "number", "energy_uj": "number", "source": "text"},
    "emulator": {
        "cpu": "text!", "lacks": "texts", "qemu_machine": "text", "qemu_cpu": "text", "qemu_icount_shift": "whole", "source": "text",
    },
    "sources": {"*": "text"},
    "defines": {"*": "define"},
}
LISTS = ("cores", "memories", "links", "accelerators", "rates", "slots", "peers")
TABLES = ("emulator", "sources", "defines")
NUMBERS = ("whole", "number", "sectors")


@dataclass(frozen=True)
class Fact:
    """One number of a device file with where it comes from; `confirmed` is False where no source was found for it."""

    value: Any
    source: str
    confirmed: bool = True


def read(path: Path) -> dict[str, Any]:
    """The TOML file as plain dicts. Raises DeviceFileError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceFileError(f"The device file {path} cannot be read ({error.strerror or error}); give a file that exists.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeviceFileError(f"The device file {path} is not valid TOML ({error}); mend that place.") from None


def normalise(raw: Mapping[str, Any], file: str, default_source: str) -> dict[str, Any]:
    """`raw` with every key and type checked and every number turned into a Fact; missing keys are not judged yet."""
    top: dict[str, Any] = {}
    scalars = {key: value for key, value in raw.items() if key not in LISTS and key not in TABLES}
    unknown = [key for key in scalars if key not in KEYS[""]]
    if unknown:
        raise DeviceFileError(unknown_key(unknown[0], "the file", (*KEYS[""], *LISTS, *TABLES), file))
    top.update(_table(scalars, "", "the file", file, default_source))
    for name in TABLES:
        if name in raw:
            top[name] = _table(_as_table(raw[name], name, file), name, f"[{name}]", file, default_source)
    for name in LISTS:
        if name in raw:
            top[name] = _rows(raw[name], name, file, default_source)
    return top


def _as_table(value: object, name: str, file: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise DeviceFileError(f'In {file}, "{name}" is {_kind(value)} and must be a table; write it as [{name}].')


def _rows(value: object, name: str, file: str, default_source: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DeviceFileError(f'In {file}, "{name}" is {_kind(value)} and must be a list of tables; write each one under [[{name}]].')
    rows = []
    for index, row in enumerate(value):
        label = row.get("name")
        where = f"[[{name}]] {label if isinstance(label, str) else index + 1}"
        if not isinstance(label, str):
            raise DeviceFileError(f'In {file}, {where} has no "name"; give it one, as text.')
        rows.append(_table(row, name, where, file, default_source))
    labels = [row["name"] for row in rows]
    for label in labels:
        if labels.count(label) > 1 and name != "peers":
            raise DeviceFileError(f"In {file}, two [[{name}]] are called {label}; give each its own name.")
    return rows


def _table(table: Mapping[str, Any], name: str, where: str, file: str, default_source: str) -> dict[str, Any]:
    allowed = KEYS[name]
    source = table.get("source", default_source)
    if not isinstance(source, str):
        raise DeviceFileError(f'In {file}, "source" in {where} is {_kind(source)} and must be text: a key of [sources].')
    result: dict[str, Any] = {}
    for key, value in table.items():
        if "*" not in allowed and key not in allowed:
            raise DeviceFileError(unknown_key(key, where, tuple(allowed), file))
        kind = allowed.get(key, allowed.get("*", "text")).rstrip("!")
        if key != "source":
            result[key] = _value(value, kind, key, where, file, source)
    return result


def _value(value: Any, kind: str, key: str, where: str, file: str, source: str) -> Any:
    """The value checked; numbers come back as Fact."""
    confirmed = True
    if kind in NUMBERS and isinstance(value, dict):
        extra = sorted(set(value) - {"value", "source", "confirmed"})
        if extra or "value" not in value:
            raise DeviceFileError(
                f'In {file}, "{key}" in {where} must be a number or {{ value, source, confirmed }}; '
                + (f'"{extra[0]}" is not one of those.' if extra else '"value" is missing.')
            )
        source, confirmed = value.get("source", source), value.get("confirmed", True)
        if not isinstance(source, str) or not isinstance(confirmed, bool):
            raise DeviceFileError(f'In {file}, "{key}" in {where} needs source as text and confirmed as true or false.')
        value = value["value"]
    if not _fits(value, kind):
        raise DeviceFileError(f'In {file}, "{key}" in {where} is {_kind(value)} and must be {WANTED[kind]}.')
    if kind == "define":
        return str(value)
    return Fact(value, source, confirmed) if kind in NUMBERS else value


WANTED = {
    "text": "text in quotes", "texts": "a list of texts", "flag": "true or false", "whole": "a whole number of at least 0",
    "number": "a number of at least 0", "sectors": "a list of [bytes, count] pairs", "ids": "a list of [vendor, product] numbers",
    "define": "text or a whole number",
}


def _fits(value: Any, kind: str) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case "text":
            return isinstance(value, str) and value != ""
        case "texts":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "flag":
            return isinstance(value, bool)
        case "whole":
            return whole and 0 <= value < 1 << 64
        case "number":
            return (whole or isinstance(value, float)) and 0 <= value < 1e30
        case "define":
            return whole or isinstance(value, str)
        case _:  # "sectors", "ids": pairs of whole numbers
            return isinstance(value, list) and all(_is_pair(pair) for pair in value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_fits(number, "whole") for number in value)


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a table"}
    text = repr(value)
    return f"{names.get(type(value), 'a date or time')} ({text if len(text) < 40 else text[:37] + '...'})"


def unknown_key(key: str, where: str, allowed: tuple[str, ...], file: str) -> str:
    """One sentence about a key that does not exist, with the one that was probably meant."""
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else "."
    return f'In {file}, {where} has the key "{key}", and allowed are {", ".join(allowed)}{hint}'


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`: tables key by key, lists of tables by their `name`; what `own` does not say stays as in `base`."""
    result = {key: value for key, value in base.items() if key not in ("aliases", "title", "peers")}
    for key, value in own.items():
        if key in LISTS:
            result[key] = _merge_rows(base.get(key, []), value)
        elif key in TABLES:
            result[key] = {**base.get(key, {}), **value}
        else:
            result[key] = value
    return result


def _merge_rows(base: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    changed = {row["name"]: row for row in own}
    rows = [{**row, **changed.pop(row["name"], {})} for row in base]
    return rows + list(changed.values())


def require(merged: Mapping[str, Any], file: str) -> None:
    """Raises DeviceFileError for the first key that a complete device needs and that is nowhere given."""
    for key, kind in KEYS[""].items():
        if kind.endswith("!") and key not in merged:
            wanted = WANTED[kind.rstrip("!")]
            raise DeviceFileError(f'{file} has no "{key}", which every device needs; add it ({wanted}) or say extends = "<a device>".')
    for name in (*LISTS, *TABLES):
        rows = merged.get(name, []) if name in LISTS else [merged[name]] if name in merged else []
        for row in rows:
            for key, kind in KEYS[name].items():
                where = f"[[{name}]] {row.get('name', '')}" if name in LISTS else f"[{name}]"
                if kind.endswith("!") and key not in row:
                    raise DeviceFileError(f'In {file}, {where} has no "{key}"; add it ({WANTED[kind.rstrip("!")]}).')
                if kind.endswith("!") and isinstance(row[key], Fact) and not row[key].confirmed:
                    raise DeviceFileError(f'In {file}, "{key}" in {where} is not confirmed and no device does without it; find its source.')
