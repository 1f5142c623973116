"""`embarq plan` and `compile`: what would happen, and making it happen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sdk.commands.common import Debug, InputLayout, Json, Printer, Quiet, Seed, device_and_model
from sdk.errors import DoesNotFit, UsageError

First = Annotated[str | None, typer.Argument(metavar="DEVICE", help="A device's name (embarq devices) or a device file.")]
Second = Annotated[str | None, typer.Argument(metavar="MODEL", help="A .tflite, .onnx or .pt2 file.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME|FILE", help="The device, when it is not an argument.")]
Calibration = Annotated[
    str | None, typer.Option("--calibration", "-c", metavar="DATA", help="A folder, .npy or .npz of inputs, to quantise a float model.")
]
Precision = Annotated[str, typer.Option("--precision", metavar="auto|int8|float32", help="Arithmetic on the device.")]
KeepInput = Annotated[bool, typer.Option("--keep-input", help="Do not reuse the input's memory while the model runs.")]
Compiler = Annotated[
    str, typer.Option("--compiler", metavar="zig|gcc", help="The C compiler; zig's clang builds the same bytes on every machine.")
]
Output = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the artifact goes; one already there is replaced.")]
Map = Annotated[bool, typer.Option("--map", help="Print the plan too: memory map, steps, decisions.")]

PRECISIONS = ("auto", "int8", "float32")
COMPILERS = ("zig", "gcc")


def plan(
    device: First = None,
    model: Second = None,
    device_option: DeviceOption = None,
    calibration: Calibration = None,
    precision: Precision = "auto",
    keep_input: KeepInput = False,
    input_layout: InputLayout = None,
    compiler: Compiler = "zig",
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> int:
    """Say whether a model fits a device and why, or, without a model, what the device has to spend.

    Nothing is compiled. The exit code is 3 when the model does not fit.

    \b
    [dim]Examples:[/dim]
      embarq plan stm32f405
      embarq plan stm32f405 kws.tflite
      embarq plan --device ./myboard.toml net.onnx -c images/
    """
    out = Printer(as_json, quiet)
    name, source = device_and_model(device, model, device_option)
    made = _plan(out, name, source, _options(calibration, precision, keep_input, compiler), input_layout)
    out.show(made.to_dict(), str(made))
    return 0 if source is None or made.fits else DoesNotFit.exit_code


def compile(
    device: First = None,
    model: Second = None,
    output: Output = "out",
    device_option: DeviceOption = None,
    calibration: Calibration = None,
    precision: Precision = "auto",
    keep_input: KeepInput = False,
    input_layout: InputLayout = None,
    compiler: Compiler = "zig",
    show_map: Map = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make the artifact: firmware, C library, golden vectors, plan. The folder appears whole or not at all.

    \b
    [dim]Examples:[/dim]
      embarq compile stm32f405 kws.tflite -o out/
      embarq compile net.onnx --device ./myboard.toml -c images/ -o out/
    """
    import sdk

    out = Printer(as_json, quiet)
    name, source = device_and_model(device, model, device_option)
    if source is None:
        raise UsageError(f"no model was given to compile for {name}; give a .tflite, .onnx or .pt2 file")
    made = _plan(out, name, source, _options(calibration, precision, keep_input, compiler), input_layout)
    with out.progress("compiling") as progress:
        artifact = sdk.compile(made, progress)
        progress("writing")
        artifact.save(output)
    parts = [str(made), ""] if show_map else []
    out.show(dict(artifact.manifest), *parts, _written(artifact.manifest, output))


def _options(calibration: str | None, precision: str, keep_input: bool, compiler: str) -> dict[str, Any]:
    """The options as `sdk.plan` takes them; their values are judged there, but a word here is cheaper to mend."""
    for name, value, allowed in (("precision", precision, PRECISIONS), ("compiler", compiler, COMPILERS)):
        if value not in allowed:
            raise UsageError(f"--{name} {value} is not known; it is one of {', '.join(allowed)}")
    return {"calibration": calibration, "precision": precision, "keep_input": keep_input, "compiler": compiler}


def _plan(out: Printer, device: str, source: str | None, options: dict[str, Any], input_layout: str | None) -> Any:
    import sdk

    if source is None:
        return sdk.plan(device)
    with out.progress("planning") as progress:
        progress(f"reading {source}")
        model = sdk.load(source, input_layout=input_layout)
        progress(f"{model.name} for {device}")
        return sdk.plan(device, model, progress=progress, **options)


def _written(manifest: Any, folder: str) -> str:
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    lines = [
        f"{folder}: {manifest['name']} for {manifest['device']}, {len(manifest['files'])} files, {total:,} bytes",
        f"next: embarq flash {folder} --to emulator      embarq inspect {folder}",
    ]
    return "\n".join(lines)
