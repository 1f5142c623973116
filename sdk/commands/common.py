"""What every command shares: its common options, the way it prints, and which argument is the device and which the model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sdk.errors import UsageError

_COMMON: Any = {"rich_help_panel": "Common"}
#: Options that every command has. `--debug` is read by `sdk.cli.main`; it stands here to appear in --help.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.", **_COMMON)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on success; with --json, only the JSON.", **_COMMON)]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of whatever is drawn at random.", **_COMMON)]
Debug = Annotated[bool, typer.Option("--debug", help="On failure, print the traceback too (also EMBARQ_DEBUG=1).", **_COMMON)]
InputLayout = Annotated[str | None, typer.Option("--input-layout", metavar="nhwc", help="Feed a channel-first model channels last.")]
Batch = Annotated[int | None, typer.Option("--batch", metavar="N", help="Batch size of an .onnx file that leaves it open.")]

#: Width of what is printed where there is no terminal to ask.
WIDTH = 100
MODEL_ENDINGS = (".tflite", ".onnx", ".pt2")


@dataclass(frozen=True)
class Printer:
    """Prints a command's result once: as JSON, as text, or not at all."""

    as_json: bool = False
    quiet: bool = False

    def show(self, data: Any, *parts: Any) -> None:
        """`data` as JSON when that was asked for, else every part: text, or something rich can draw."""
        if self.as_json:
            sys.stdout.write(json.dumps(data, indent=1, default=plain) + "\n")
        elif not self.quiet:
            draw(parts)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str], None]]:
        """A line on the terminal that says what is being done; silent on a pipe, with --quiet and with --json."""
        if self.as_json or self.quiet or not sys.stderr.isatty():
            yield lambda _line: None
            return
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what)
            yield lambda line: bar.update(task, description=f"{what}: {line}")


def draw(parts: Sequence[Any]) -> None:
    """Print text as it is and tables as wide as the terminal (or `WIDTH` columns on a pipe)."""
    from rich.console import Console

    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    console = Console(width=max(width, 60), highlight=False, soft_wrap=False)
    for part in parts:
        if isinstance(part, str):
            sys.stdout.write(part.rstrip("\n") + "\n")
        else:
            console.print(part)
        sys.stdout.flush()


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> Any:
    """A plain table. The first column never wraps, nor do those named in `right`, which hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if name in right else "left", no_wrap=index == 0 or name in right, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def plain(value: Any) -> Any:
    """What `json` cannot write, as something it can: numpy arrays and numbers, paths, tuples' cousins, dataclasses."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def size(count: int | None) -> str:
    """Bytes as a person reads them: 524288 -> "512 KiB", 1000 -> "1000 B"; None -> ""."""
    if count is None:
        return ""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.4g} {name}" if count % unit == 0 else f"{count / unit:.3g} {name}"
    return f"{count} B"


def megahertz(clock_hz: int) -> str:
    """A clock as a person reads it; "?" where no source confirms it."""
    return f"{clock_hz / 1e6:g} MHz" if clock_hz else "?"


def device_and_model(first: str | None, second: str | None, device: str | None) -> tuple[str, str | None]:
    """Which argument is the model (its ending tells) and which the device, in either order or with `--device`.

    Raises `UsageError` when a device is missing or two were given.
    """
    given = [name for name in (first, second) if name is not None]
    models = [name for name in given if Path(name).suffix.lower() in MODEL_ENDINGS]
    devices = [name for name in given if name not in models] + ([device] if device is not None else [])
    if len(models) > 1:
        raise UsageError(f"{models[0]} and {models[1]} are both models; give one device and one model")
    if len(devices) > 1:
        wrong = devices[0] if device is not None else devices[1]
        raise UsageError(f"{wrong} is no model: its ending is none of {', '.join(MODEL_ENDINGS)}; give one device and one model")
    if not devices:
        raise UsageError("no device was given; name one (see: embarq devices) or give a file with --device ./myboard.toml")
    return devices[0], models[0] if models else None
