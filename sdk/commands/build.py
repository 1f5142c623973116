"""`embarq plan` and `compile`: what would happen, and making it happen."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sdk.commands.common import Batch, Debug, InputLayout, Json, Printer, Quiet, Seed, device_and_model
from sdk.errors import DataError, DoesNotFit, UsageError

_QUANT: Any = {"rich_help_panel": "Quantising a float model (with --calibration)"}
First = Annotated[str | None, typer.Argument(metavar="DEVICE", help="A device's name (embarq devices) or a device file.")]
Second = Annotated[str | None, typer.Argument(metavar="MODEL", help="A .tflite, .onnx or .pt2 file.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME|FILE", help="The device, when it is not an argument.")]
Calibration = Annotated[
    str | None, typer.Option("--calibration", "-c", metavar="DATA", help="A folder, .npy or .npz of inputs, to quantise a float model.", **_QUANT)
]
Precision = Annotated[str, typer.Option("--precision", metavar="auto|int8|float32", help="Arithmetic on the device; Linux: also dynamic-int8, float16.")]
Range = Annotated[str, typer.Option("--range", metavar="minmax|percentile|mse", help="How to choose what 8 bits span.", **_QUANT)]
Int16 = Annotated[list[str] | None, typer.Option("--int16", metavar="NODE", help="Compute it with 16-bit values. May be repeated.", **_QUANT)]
KeepFloat = Annotated[list[str] | None, typer.Option("--keep-float", metavar="NODE", help="Leave it in float. May be repeated.", **_QUANT)]
Report = Annotated[bool, typer.Option("--report", help="Tell what quantising cost, layer by layer.", **_QUANT)]
KeepInput = Annotated[bool, typer.Option("--keep-input", help="Do not reuse the input's memory while the model runs.")]
Compiler = Annotated[str, typer.Option("--compiler", metavar="zig|gcc", help="The C compiler; zig's clang builds the same bytes on every machine.")]
Output = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the artifact goes; one already there is replaced.")]
Map = Annotated[bool, typer.Option("--map", help="Print the plan too: memory map, steps, decisions.")]

_LINUX: Any = {"rich_help_panel": "Linux devices"}
Backend = Annotated[str | None, typer.Option("--backend", metavar="auto|onnx|litert|executorch|tensorrt|native", help="The engine; auto tries all.", **_LINUX)]
Threads = Annotated[list[int] | None, typer.Option("--threads", metavar="N", help="Threads to try; one and all cores by default. May be repeated.", **_LINUX)]
Evaluation = Annotated[str | None, typer.Option("--evaluation", "-e", metavar="DATA.npz", help="Inputs x and labels y to judge accuracy by.", **_LINUX)]
Drop = Annotated[float | None, typer.Option("--accuracy-drop", metavar="POINTS", help="Accuracy that a faster recipe may cost (1.0).", **_LINUX)]
Target = Annotated[str | None, typer.Option("--try-on", metavar="local|ssh://user@host", help="Where the candidates are measured.", **_LINUX)]

Train = Annotated[
    list[str] | None,
    typer.Option(
        "--train", metavar="NAME=VALUE", rich_help_panel="Learning on the device",
        help="Let the model learn there: budget=64KiB, layers=last4, method=adapter, batch=16 and others of sdk.Training; "
        "wants labels: -c DATA.npz with x and y. May be repeated.",
    ),
]  # fmt: skip

PRECISIONS = ("auto", "int8", "float32", "dynamic-int8", "float16")
COMPILERS = ("zig", "gcc")
QUANT_DEFAULTS: dict[str, Any] = {"range": "minmax", "int16": (), "keep_float": ()}


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
    batch: Batch = None,
    compiler: Compiler = "zig",
    backend: Backend = None,
    threads: Threads = None,
    evaluation: Evaluation = None,
    accuracy_drop: Drop = None,
    try_on: Target = None,
    train: Train = None,
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
      embarq plan rpi-4b net.onnx -c images/ --backend onnx
      embarq plan stm32h743 net.onnx -c images/ --report
      embarq plan stm32h743 net.onnx -c images/ --int16 conv_4 --report
      embarq plan stm32f746 net.pt2 -c data.npz --train budget=64KiB
    """
    out = Printer(as_json, quiet)
    name, source = device_and_model(device, model, device_option)
    quant = {"range": quant_range, "int16": int16 or (), "keep_float": keep_float or ()}
    options = _options(calibration, precision, keep_input, compiler, quant) | ({"quant_report": True} if report else {})
    options |= _linux_options(backend, threads, evaluation, accuracy_drop, try_on) | _training(train, calibration)
    made = _plan(out, name, source, options, input_layout, batch)
    out.show(made.to_dict(), str(made), *_report(made, report))
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
    report: Report = False,
    precision: Precision = "auto",
    keep_input: KeepInput = False,
    input_layout: InputLayout = None,
    batch: Batch = None,
    compiler: Compiler = "zig",
    backend: Backend = None,
    threads: Threads = None,
    evaluation: Evaluation = None,
    accuracy_drop: Drop = None,
    try_on: Target = None,
    train: Train = None,
    show_map: Map = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make the artifact: firmware and C library, or the fastest accurate engine file for a Linux device. It appears whole or not at all.

    \b
    [dim]Examples:[/dim]
      embarq compile stm32f405 kws.tflite -o out/
      embarq compile net.onnx --device ./myboard.toml -c images/ -o out/
      embarq compile rpi-4b net.onnx -c images/ -e test.npz --try-on ssh://pi@raspberrypi.local -o out/
      embarq compile rpi-4b net.pt2 -c data.npz --train layers=last4,batch=16 -o out/
    """
    import sdk

    out = Printer(as_json, quiet)
    name, source = device_and_model(device, model, device_option)
    if source is None:
        raise UsageError(f"no model was given to compile for {name}; give a .tflite, .onnx or .pt2 file")
    quant = {"range": quant_range, "int16": int16 or (), "keep_float": keep_float or ()}
    options = _options(calibration, precision, keep_input, compiler, quant) | ({"quant_report": True} if report else {})
    options |= _linux_options(backend, threads, evaluation, accuracy_drop, try_on) | _training(train, calibration)
    made = _plan(out, name, source, options, input_layout, batch)
    with out.progress("compiling") as progress:
        artifact = sdk.compile(made, progress)
        progress("writing")
        artifact.save(output)
    parts = ([str(made), ""] if show_map else []) + _report(made, report)
    out.show(dict(artifact.manifest), *parts, *artifact.measured_text(), _written(artifact, output))


def _report(plan: Any, asked: bool) -> list[str]:
    """What quantising for a microcontroller cost; for a Linux device compile tells it with what it measured."""
    found = getattr(plan, "quant_report", None)
    return [str(found)] if asked and found is not None else []


def _options(calibration: str | None, precision: str, keep_input: bool, compiler: str, quant: dict[str, Any]) -> dict[str, Any]:
    """The options as `sdk.plan` takes them; their values are judged there, but a word here is cheaper to mend."""
    asked = [f"--{name.replace('_', '-')}" for name in ("int16", "keep_float") if quant[name]]
    if asked and calibration is None:
        raise UsageError(f"{asked[0]} says how to quantise, and there is nothing to quantise with; give --calibration DATA")
    for name, value, allowed in (("precision", precision, PRECISIONS), ("compiler", compiler, COMPILERS)):
        if value not in allowed:
            raise UsageError(f"--{name} {value} is not known; it is one of {', '.join(allowed)}")
    chosen = {"quant": quant} if any(quant[name] != default for name, default in QUANT_DEFAULTS.items()) else {}
    return {"calibration": calibration, "precision": precision, "keep_input": keep_input, "compiler": compiler, **chosen}


def _training(wishes: list[str] | None, calibration: str | None) -> dict[str, Any]:
    """`training` as `sdk.plan` takes it, and with it calibration data that have labels."""
    from sdk.commands.train import training_of

    wish = training_of(wishes)
    if wish is None:
        return {}
    if calibration is None:
        raise UsageError("--train needs to see what the model is to learn from; give -c DATA.npz with inputs x and labels y")
    return {"training": wish, "calibration": labelled(calibration)}


def _linux_options(
    backend: str | None, threads: list[int] | None, evaluation: str | None, accuracy_drop: float | None, try_on: str | None
) -> dict[str, Any]:
    """What was given of the options for Linux devices, as `sdk.plan` takes them."""
    judged = None if evaluation is None else labelled(evaluation)
    given = {"backend": backend, "threads": threads or None, "evaluation": judged, "accuracy_drop_points": accuracy_drop, "target": try_on}
    return {name: value for name, value in given.items() if value is not None}


def labelled(file: str) -> tuple[Any, Any]:
    """(inputs, labels) from a .npz with the arrays x and y. Raises DataError."""
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as pack:
            return pack["x"], pack["y"]
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error}); give a .npz with inputs x and labels y") from None
    except Exception as error:  # numpy lets the errors of zipfile and struct through; an array that is absent is a KeyError
        raise DataError(f"{file} is no .npz with inputs x [n, ...] and labels y [n] ({error}); save it with numpy.savez(file, x=x, y=y)") from None


def _plan(out: Printer, device: str, source: str | None, options: dict[str, Any], input_layout: str | None, batch: int | None) -> Any:
    import sdk

    if source is None:
        return sdk.plan(device)
    with out.progress("planning") as progress:
        progress(f"reading {source}")
        model = sdk.load(source, input_layout=input_layout, batch=batch)
        progress(f"{model.name} for {device}")
        return sdk.plan(device, model, progress=progress, **options)


def _written(artifact: Any, folder: str) -> str:
    manifest, where = artifact.manifest, "local" if artifact.is_linux else "emulator"
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    lines = [
        f"{folder}: {manifest['name']} for {manifest['device']}, {len(manifest['files'])} files, {total:,} bytes",
        f"next: embarq flash {folder} --to {where}      embarq inspect {folder}",
    ]
    return "\n".join(lines)
