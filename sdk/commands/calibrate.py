"""`embarq calibrate`: measure a Linux device, so that plans for it tell times."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdk.commands.common import Debug, Json, Printer, Quiet, Seed, table
from sdk.errors import UsageError

if TYPE_CHECKING:
    from sdk.device_rates import Found
    from targets.device import Device

DeviceName = Annotated[str, typer.Argument(metavar="DEVICE", help="What is measured: a device's name (embarq devices) or a device file.")]
To = Annotated[str, typer.Option("--to", metavar="local|ssh://user@host", help="Where it is.")]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="FILE.toml", help="The device file to write; DEVICE-calibrated.toml by default.")]


def calibrate(
    device: DeviceName = "host",
    to: To = "local",
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Measure a Linux device in about a minute and write a device file with its rates: plans with that file estimate times.

    The device needs Python and numpy; engines are measured where they are installed.

    \b
    [dim]Examples:[/dim]
      embarq calibrate
      embarq calibrate rpi-4b --to ssh://pi@raspberrypi.local -o mypi.toml
      embarq plan ./mypi.toml net.onnx
    """
    from sdk.device_rates import device_file, measure_rates
    from targets.device import load_device

    out = Printer(as_json, quiet)
    known = load_device(device)
    path = Path(output if output is not None else f"{known.name}-calibrated.toml")
    check_place(path)
    with out.progress(f"calibrating {known.name}") as progress:
        found = measure_rates(known, to, progress)
    write(path, device_file(found, path.stem, base_of(known, device, path)))
    out.show({**found.to_dict(), "file": str(path)}, *_page(found, path))


def check_place(path: Path) -> None:
    """Raises `UsageError`, before a minute is spent, for a file that is not one of ours or a folder that is not there."""
    from sdk.device_rates import HEADER

    if path.suffix != ".toml":
        raise UsageError(f"{path} does not end in .toml, by which device files are known; give -o {path}.toml")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise UsageError(f"{path} is there already and was not written by calibrate; give another name with -o")


def base_of(known: Device, asked: str, path: Path) -> str:
    """What the new file extends: a shipped device by name, a file by its way from the new file, and never itself."""
    if Path(known.file).name == known.file and not asked.endswith(".toml"):
        return known.name
    if Path(asked).resolve() == path.resolve():
        raise UsageError(f"{path} cannot extend itself; give another name with -o")
    return os.path.relpath(asked, path.parent)


def write(path: Path, text: str) -> None:
    """The file, whole or not at all, and only when it can be read back as a device."""
    from targets.device import load_device

    fresh = path.with_name(f".{path.stem}.new.toml")
    try:
        fresh.write_text(text, encoding="utf-8")
        load_device(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _page(found: Found, path: Path) -> list[Any]:
    rows = [(name, f"{value / 1e9:,.2f}", "GB/s copied" if kind == "bytes_s" else "GMAC/s") for name, kind, value in found.rates]
    place = path if path.is_absolute() or path.parent != Path(".") else Path(".") / path
    shown = place if str(place).startswith(("/", ".")) else f"./{place}"
    return [
        f"{found.device.name}: {found.about}\n",
        table(None, ("rate", "measured", "unit"), rows, right=("measured",)),
        *(f"  - {note}" for note in found.notes),
        f"{path}: plan with it: embarq plan {shown} MODEL",
    ]
