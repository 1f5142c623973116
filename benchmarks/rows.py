"""The rows every benchmark prints: one figure of one case, with the peers' figures beside it."""

from __future__ import annotations

import datetime
import fcntl
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"


@dataclass(frozen=True)
class Row:
    """`value` of `metric` for `case`; `better` is "lower" or "higher"; `peers` maps a name to the same figure of another project."""

    case: str
    metric: str
    value: float
    unit: str
    better: str
    peers: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return {"case": self.case, "metric": self.metric, "value": self.value, "unit": self.unit, "better": self.better, "peers": dict(self.peers)}


def to_json(rows: Iterable[Row]) -> str:
    """One JSON list of rows."""
    return json.dumps([row.to_dict() for row in rows], indent=1)


def table(rows: Sequence[Row]) -> str:
    """The rows as text: a line a figure, peers behind it, grouped by case."""
    lines, last = [], None
    for row in rows:
        if row.case != last:
            lines += ["", row.case]
            last = row.case
        peers = "   ".join(f"{name} {number(value)} ({ratio(row.value, value)})" for name, value in row.peers.items())
        lines.append(f"  {row.metric:<18} {number(row.value):>14} {row.unit:<13} {peers}".rstrip())
    return "\n".join(lines).lstrip("\n")


def number(value: float) -> str:
    """12,345 or 0.8725."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4f}"


def ratio(ours: float, theirs: float) -> str:
    """Ours over theirs."""
    return f"x{ours / theirs:.2f}" if theirs else "-"


def publish(name: str, rows: Sequence[Row]) -> Path:
    """Keep these rows as the last published ones of their cases, with date, commit and machine; other cases keep theirs, of runs beside this one too."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    made = {"date": datetime.date.today().isoformat(), "commit": commit}
    new = [{**row.to_dict(), **made} for row in rows]
    cases = {row.case for row in rows}
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        record = {
            **made,
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "rows": [row for row in published(name) if row["case"] not in cases] + new,
        }
        path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def published(name: str) -> list[dict[str, Any]]:
    """The rows published last, each with the date and commit it was measured at where it says so; none when nothing was published."""
    path = RESULTS / f"{name}.json"
    text = path.read_text() if path.is_file() else ""
    return list(json.loads(text)["rows"]) if text else []


def published_rows(name: str) -> list[Row]:
    """The same as `Row`s, in the order of their cases' names."""
    keys = ("case", "metric", "value", "unit", "better", "peers")
    return sorted((Row(**{key: row[key] for key in keys}) for row in published(name)), key=lambda row: row.case)
