"""`embarq verify`, `flash`, `run` and `profile`: an artifact on a board, emulated or real, or on a Linux device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sdk.commands.common import Debug, Json, Printer, Quiet, Seed, table
from sdk.errors import VerificationFailed

Folder = Annotated[str, typer.Argument(metavar="ARTIFACT", help="The folder that `embarq compile` wrote.")]
Port = Annotated[
    str | None,
    typer.Option(
        "--to", "--port", "-p", metavar="WHERE",
        help="A board: emulator (default), a serial port (/dev/ttyACM0) or socket://host:port. A Linux device: local (default) or ssh://user@host.",
    ),
]  # fmt: skip

#: Runs whose outputs are shown on the screen.
SHOWN = 10

InputFile = Annotated[
    str | None, typer.Option("--input", "-i", metavar="X.npy|.npz", help="One input, or several stacked; drawn at random when left out.")
]
OutputFile = Annotated[str | None, typer.Option("--output", "-o", metavar="Y.npy|.npz", help="Write the outputs here.")]


def verify(
    artifact: Folder,
    port: Port = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Check the folder's hashes only; no board is needed.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> int:
    """Prove that the board computes the artifact's golden vectors; name the first layer that differs.

    \b
    [dim]Examples:[/dim]
      embarq verify out/
      embarq verify out/ --to /dev/ttyACM0
      embarq verify out/ --files-only
    """
    import sdk

    out = Printer(as_json, quiet)
    opened = sdk.open(artifact)  # checks every hash
    if files_only:
        count = len(opened.manifest["files"])
        out.show({"ok": True, "files": count}, f"{artifact}: {count} files, every hash agrees")
        return 0
    with open_session(out, opened, port) as session, out.progress("verifying") as progress:
        report = session.verify(progress=progress)
    out.show(report.to_dict(), str(report))
    return 0 if report.ok else VerificationFailed.exit_code


def flash(
    artifact: Folder,
    port: Port = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Put the artifact on a board and check there that it computes what it must.

    \b
    [dim]Examples:[/dim]
      embarq flash out/
      embarq flash out/ --to /dev/ttyACM0
      embarq flash out/ --to ssh://pi@raspberrypi.local
    """
    import sdk

    out = Printer(as_json, quiet)
    opened = sdk.open(artifact)
    with open_session(out, opened, port, verify=True):
        pass
    name, device, where = opened.manifest["name"], opened.manifest["device"], port or _usual(opened)
    data = {"ok": True, "name": name, "device": device, "to": where}
    out.show(data, f"{name} is on {device} ({where}) and computes its golden vectors")


def run(
    artifact: Folder,
    input_file: InputFile = None,
    output_file: OutputFile = None,
    port: Port = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Run the model on the board and show what comes back.

    \b
    [dim]Examples:[/dim]
      embarq run out/ --input x.npy --output y.npy
      embarq run out/ --to /dev/ttyACM0 -i x.npy --json
    """
    import numpy as np

    import sdk
    from sdk.commands.arrays import check_output, read_samples, write_outputs

    out = Printer(as_json, quiet)
    opened = sdk.open(artifact)
    names = [tensor.name for tensor in opened.tensors("outputs")]
    check_output(output_file, names)
    samples = read_samples(input_file, opened.tensors("inputs"), seed)
    with open_session(out, opened, port) as session, out.progress("running") as progress:
        found = []
        for index, sample in enumerate(samples):
            progress(f"{index + 1} of {len(samples)}")
            given = session.run(*sample)
            found.append(given if isinstance(given, tuple) else (given,))
    outputs = {name: np.concatenate(column) for name, column in zip(names, zip(*found, strict=True), strict=True)}  # [n, ...] each
    if output_file is not None:
        write_outputs(output_file, outputs)
    out.show(_run_dict(outputs, output_file), *_run_page(outputs, output_file))


def profile(
    artifact: Folder,
    port: Port = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Tell what each layer costs: executed instructions on an emulated board, ticks on a real one, milliseconds on a Linux device.

    \b
    [dim]Examples:[/dim]
      embarq profile out/
      embarq profile out/ --to /dev/ttyACM0 --json
    """
    import sdk

    out = Printer(as_json, quiet)
    with open_session(out, sdk.open(artifact), port) as session:
        found = session.profile()
    out.show(found.to_dict(), str(found))


@contextmanager
def open_session(out: Printer, artifact: Any, port: str | None, verify: bool = False) -> Iterator[Any]:
    """The artifact on the board or Linux device at `port`; the session is closed at the end, whatever happens."""
    with out.progress(f"flashing {artifact.manifest['name']} to {port or _usual(artifact)}") as progress:
        session = artifact.flash(port, progress=progress, verify=verify, **_asking(port))
    try:
        yield session
    finally:
        session.close()


def _asking(port: str | None) -> dict[str, Any]:
    """A way to ask for a password over SSH, where somebody sits at a terminal."""
    import sys

    if port is None or not port.startswith("ssh://") or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return {}
    from getpass import getpass

    return {"ask": getpass}


def _usual(artifact: Any) -> str:
    """Where an artifact goes when nobody says where."""
    return "local" if "recipe" in artifact.manifest else "emulator"


def _run_dict(outputs: Any, file: str | None) -> dict[str, Any]:
    """The outputs by name, with their values unless those went to a file."""
    rows = [
        {"name": name, "shape": list(array.shape), "dtype": str(array.dtype), "values": None if file else array}
        for name, array in outputs.items()
    ]
    return {"outputs": rows, "file": file}


def _run_page(outputs: Any, file: str | None) -> list[Any]:
    """Each output with the largest entries of its first runs, as for a list of scores."""
    parts: list[Any] = []
    for name, array in outputs.items():
        flat = array.reshape(len(array), -1)
        rows = []
        for index, row in enumerate(flat[:SHOWN]):
            best = row.argsort(kind="stable")[::-1][:5]
            rows.append((index, ", ".join(f"{i}: {row[i]:.6g}" for i in best)))
        parts.append(f"{name}: {array.dtype}{list(array.shape[1:])}, {len(array)} run{'s' if len(array) > 1 else ''}")
        parts.append(table(None, ("run", "largest entries (index: value)"), rows, right=("run",)))
        if len(flat) > SHOWN:
            parts.append(f"... and {len(flat) - SHOWN} more")
    return [*parts, f"written to {file}"] if file else parts
