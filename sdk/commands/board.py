"""`embarq verify`, `flash`, `run` and `profile`: an artifact on a board, emulated or real."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sdk.commands.common import Debug, Json, Printer, Quiet, Seed, table
from sdk.errors import DataError, UsageError, VerificationFailed

Folder = Annotated[str, typer.Argument(metavar="ARTIFACT", help="The folder that `embarq compile` wrote.")]
Port = Annotated[str, typer.Option("--to", "--port", "-p", metavar="BOARD", help="emulator, a serial port (/dev/ttyACM0), or socket://host:port.")]

InputFile = Annotated[
    str | None, typer.Option("--input", "-i", metavar="X.npy", help="One input, or several stacked; drawn at random when left out.")
]
OutputFile = Annotated[str | None, typer.Option("--output", "-o", metavar="Y.npy", help="Write the outputs here.")]


def verify(
    artifact: Folder,
    port: Port = "emulator",
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
    with _session(out, opened, port) as session, out.progress("verifying") as progress:
        report = session.verify(progress=progress)
    out.show(report.to_dict(), str(report))
    return 0 if report.ok else VerificationFailed.exit_code


def flash(
    artifact: Folder,
    port: Port = "emulator",
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
    """
    import sdk

    out = Printer(as_json, quiet)
    opened = sdk.open(artifact)
    with _session(out, opened, port, verify=True):
        pass
    name, device = opened.manifest["name"], opened.manifest["device"]
    data = {"ok": True, "name": name, "device": device, "to": port}
    out.show(data, f"{name} is on {device} ({port}) and computes its golden vectors")


def run(
    artifact: Folder,
    input_file: InputFile = None,
    output_file: OutputFile = None,
    port: Port = "emulator",
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

    out = Printer(as_json, quiet)
    opened = sdk.open(artifact)
    wanted = opened.manifest["inputs"]
    if len(wanted) != 1:
        raise UsageError(f"{artifact} has {len(wanted)} inputs and this command feeds one; use Session.run from Python")
    samples = _samples(input_file, wanted[0], seed)
    with _session(out, opened, port) as session, out.progress("running") as progress:
        outputs = []
        for index, sample in enumerate(samples):
            progress(f"{index + 1} of {len(samples)}")
            outputs.append(np.asarray(session.run(sample)))
    stacked = np.concatenate(outputs)  # [n, ...]
    if output_file is not None:
        _write_npy(Path(output_file), stacked)
    data = {"shape": list(stacked.shape), "dtype": str(stacked.dtype), "output": None if output_file else stacked, "file": output_file}
    out.show(data, *_run_page(stacked, output_file))


def profile(
    artifact: Folder,
    port: Port = "emulator",
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Tell what each layer costs on the board: executed instructions on an emulated one, ticks on a real one.

    \b
    [dim]Examples:[/dim]
      embarq profile out/
      embarq profile out/ --to /dev/ttyACM0 --json
    """
    import sdk

    out = Printer(as_json, quiet)
    with _session(out, sdk.open(artifact), port) as session:
        found = session.profile()
    out.show(found.to_dict(), str(found))


@contextmanager
def _session(out: Printer, artifact: Any, port: str, verify: bool = False) -> Iterator[Any]:
    """The artifact on the board at `port`; the session is closed at the end, whatever happens."""
    with out.progress("flashing") as progress:
        progress(f"{artifact.manifest['name']} to {port}")
        session = artifact.flash(port, progress=progress, verify=verify)
    try:
        yield session
    finally:
        session.close()


def _samples(file: str | None, wanted: Any, seed: int) -> list[Any]:
    """The inputs in `file`, [1, ...] each; one random input of `wanted` (an entry of the manifest) without a file."""
    import numpy as np

    shape = tuple(wanted["shape"])
    if file is None:
        rng = np.random.default_rng(seed)
        if wanted["dtype"] == "float32":
            return [rng.standard_normal(shape).astype(np.float32)]
        info = np.iinfo(wanted["dtype"])
        return [rng.integers(info.min, info.max, shape, dtype=wanted["dtype"], endpoint=True)]
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read as a .npy file ({error}); save one with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file} is a .npz; give one .npy, saved with numpy.save")
    if array.shape == shape or array.shape == shape[1:]:
        return [array.reshape(shape)]
    if array.shape[1:] == shape[1:] and len(array):
        return [array[i : i + 1] for i in range(len(array))]
    raise DataError(f"{file} has shape {list(array.shape)} and the model takes {list(shape)}; give that, or several stacked")


def _write_npy(path: Path, array: Any) -> None:
    """Write beside `path`, then rename: a stopped run leaves the old file or none."""
    import numpy as np

    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _run_page(outputs: Any, file: str | None) -> list[Any]:
    """The first outputs, each with its largest entries when it looks like a list of scores."""
    head = f"{len(outputs)} output{'s' if len(outputs) > 1 else ''}, {outputs.dtype}{list(outputs.shape[1:])} each"
    flat = outputs.reshape(len(outputs), -1)
    rows = []
    for index, row in enumerate(flat[:10]):
        order = row.argsort(kind="stable")[::-1][:5]
        rows.append((index, ", ".join(f"{i}: {row[i]:.6g}" for i in order)))
    parts = [head + (f", written to {file}" if file else ""), table(None, ("run", "largest entries (index: value)"), rows, right=("run",))]
    return [*parts, f"... and {len(flat) - 10} more"] if len(flat) > 10 else parts
