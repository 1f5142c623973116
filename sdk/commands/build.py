"""`embarq plan` and `compile`: what would happen, and making it happen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sdk.commands.common import Debug, InputLayout, Json, Printer, Quiet, Seed, device_and_model
from sdk.errors import DoesNotFit, UsageError

_QUANT: Any = {"rich_help_panel": "Quantising a float model (with --calibration)"}
First = Annotated[str | None, typer.Argument(metavar="DEVICE", help="A device's name (embarq devices) or a device file.")]
Second = Annotated[str | None, typer.Argument(metavar="MODEL", help="A .tflite, .onnx or .pt2 file.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME|FILE", help="The device, when it is not an argument.")]
Calibration = Annotated[
    str | None, typer.Option("--calibration", "-c", metavar="DATA", help="A folder, .npy or .npz of inputs, to quantise a float model.", **_QUANT)
]
Precision = Annotated[str, typer.Option("--precision", metavar="auto|int8|float32", help="Arithmetic on the device.")]
Range = Annotated[str, typer.Option("--range", metavar="minmax|percentile|mse", help="How to choose what 8 bits span.", **_QUANT)]
Int16 = Annotated[list[str] | None, typer.Option("--int16", metavar="NODE", help="Compute it with 16-bit values. May be repeated.", **_QUANT)]
KeepFloat = Annotated[list[str] | None, typer.Option("--keep-float", metavar="NODE", help="Leave it in float. May be repeated.", **_QUANT)]
Report = Annotated[bool, typer.Option("--report", help="Tell what quantising cost, layer by layer.", **_QUANT)]
KeepInput = Annotated[bool, typer.Option("--keep-input", help="Do not reuse the input's memory while the model runs.")]
Compiler = Annotated[str, typer.Option("--compiler", metavar="zig|gcc", help="The C compiler; zig's clang builds the same bytes on every machine.")]
Output = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the artifact goes; one already there is replaced.")]
Map = Annotated[bool, typer.Option("--map", help="Print the plan too: memory map, steps, decisions.")]

PRECISIONS = ("auto", "int8", "float32")
COMPILERS = ("zig", "gcc")


def plan(
    device: First = None,
    model: Second = None,
    device_option: DeviceOption = None,
    calibration: Calibration = None,
    quant_range: Range = "minmax",
    int16: Int16 = None,
    keep_float: KeepFloat = None,
    report: Report = False,
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
      embarq plan stm32h743 net.onnx -c images/ --report
      embarq plan stm32h743 net.onnx -c images/ --int16 conv_4 --report
    """
    out = Printer(as_json, quiet)
    name, source = device_and_model(device, model, device_option)
    quant = {"range": quant_range, "int16": int16 or (), "keep_float": keep_float or ()}
    options = _options(calibration, precision, keep_input, compiler, quant) | ({"quant_report": True} if report else {})
    made = _plan(out, name, source, options, input_layout)
    out.show(made.to_dict(), str(made), *([str(made.quant_report)] if report else []))
    return 0 if source is None or made.fits else DoesNotFit.exit_code


def compile(
    device: First = None,
    model: Second = None,
    output: Output = "out",
    device_option: DeviceOption = None,
    calibration: Calibration = None,
    quant_range: Range = "minmax",
    int16: Int16 = None,
    keep_float: KeepFloat = None,
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
    quant = {"range": quant_range, "int16": int16 or (), "keep_float": keep_float or ()}
    made = _plan(out, name, source, _options(calibration, precision, keep_input, compiler, quant), input_layout)
    with out.progress("compiling") as progress:
        artifact = sdk.compile(made, progress)
        progress("writing")
        artifact.save(output)
    parts = [str(made), ""] if show_map else []
    out.show(dict(artifact.manifest), *parts, _written(artifact.manifest, output))


def _options(calibration: str | None, precision: str, keep_input: bool, compiler: str, quant: dict[str, Any]) -> dict[str, Any]:
    """The options as `sdk.plan` takes them; their values are judged there, but a word here is cheaper to mend."""
    asked = [f"--{name.replace('_', '-')}" for name in ("int16", "keep_float") if quant[name]]
    if asked and calibration is None:
        raise UsageError(f"{asked[0]} says how to quantise, and there is nothing to quantise with; give --calibration DATA")
    for name, value, allowed in (("precision", precision, PRECISIONS), ("compiler", compiler, COMPILERS)):
        if value not in allowed:
            raise UsageError(f"--{name} {value} is not known; it is one of {', '.join(allowed)}")
    return {"calibration": calibration, "precision": precision, "keep_input": keep_input, "compiler": compiler, "quant": quant}


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
