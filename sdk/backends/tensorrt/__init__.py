"""TensorRT for Jetson: an ONNX model that its builder reads well. The engine is built on the device, never here.

float32 and float16 are the float model and a build flag; int8 carries explicit Q/DQ pairs. A recipe's options:

    tensorrt      "8.2", "8.5", ...: the oldest TensorRT that shall read it (default 8.5; 8.2 for a Jetson Nano)
    device        a name of targets/: its TensorRT, and a refusal of what its GPU cannot compute
    sparsity      "2:4": let the builder take sparse kernels where weights have that pattern
    fp16          int8 only: may the layers left in float run in half precision (default True)
    range         "mse" (default), "percentile" or "minmax": how an activation's range is chosen
    workspace_bytes   scratch memory the builder may use (default 256 MiB)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdk.backends.payload import Payload
from sdk.backends.samples import LayerError
from sdk.backends.source import Source
from sdk.backends.tensorrt.calibrate import RANGES
from sdk.backends.tensorrt.versions import DEVICES, RELEASES, Release, release_for
from sdk.errors import EmbarqError, UnsupportedOp
from sdk.planner.recipes import Recipe

OPTIONS = ("tensorrt", "device", "sparsity", "fp16", "range", "workspace_bytes")
WORKSPACE_BYTES = 256 << 20
#: What one protobuf message can hold.
LIMIT_BYTES = (1 << 31) - 1


def refusal(model: Source, recipe: Recipe) -> str | None:
    """Why `model` cannot be prepared for TensorRT by `recipe`, in one sentence with the mend; None where it can."""
    return _refused_options(recipe) or _refused_model(model, recipe)


def _refused_options(recipe: Recipe) -> str | None:
    options = recipe.options
    unknown = [o for o in options if o not in OPTIONS]
    if unknown:
        return f"tensorrt knows no option {unknown[0]!r}; choose from {', '.join(OPTIONS)}"
    if release_for(options) is None:
        return f"TensorRT {options.get('tensorrt')!r} is not known; choose {', '.join(RELEASES)} or a newer one"
    if options.get("sparsity") not in (None, False, "2:4"):
        return f"sparsity {options['sparsity']!r} is not known; TensorRT has '2:4'"
    if options.get("range", "mse") not in RANGES:
        return f"range {options['range']!r} is unknown; choose one of {', '.join(RANGES)}"
    size = options.get("workspace_bytes", WORKSPACE_BYTES)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 << 20:
        return f"workspace_bytes is {size!r}; give a whole number of bytes, 1048576 or more"
    return _refused_hardware(recipe)


def _refused_hardware(recipe: Recipe) -> str | None:
    if recipe.precision == "dynamic-int8":
        return "TensorRT has no dynamic int8; choose int8 with calibration samples, or float16"
    jetson = DEVICES.get(str(recipe.options.get("device")))
    if jetson and recipe.precision == "int8" and not jetson.int8:
        return f"the GPU of {recipe.options['device']} (compute capability {jetson.capability}) has no int8 in TensorRT; choose float16"
    if jetson and recipe.options.get("sparsity") and not jetson.sparsity:
        return f"the GPU of {recipe.options['device']} (compute capability {jetson.capability}) has no sparse kernels; leave sparsity out"
    return None


def _refused_model(model: Source, recipe: Recipe) -> str | None:
    if model.kind not in ("torch", "onnx"):
        return f"TensorRT starts from a torch or ONNX model and {model.name} is of kind {model.kind}; load the .onnx, or the nn.Module it came from"
    if model.is_quantised and recipe.precision != "int8":
        return f"{model.name} is quantised already; choose int8, or load its float original for {recipe.precision}"
    return None


def emit(model: Source, recipe: Recipe, samples: Any = (), progress: Callable[[str], None] | None = None) -> Payload:
    """`model.onnx` for the recipe, with the build flags in the payload's options.

    samples: calibration inputs for int8, mappings or arrays in the model's shapes. Raises UnsupportedOp with `refusal`'s sentence,
    DataError where int8 has no samples, and what exporting raises.
    """
    why = refusal(model, recipe)
    if why:
        raise UnsupportedOp(why)
    from sdk.backends.onnx.export import ports
    from sdk.backends.tensorrt.export import float_model
    from sdk.backends.tensorrt.sparsity import sparse_layers

    tell, release = progress or (lambda _: None), release_for(recipe.options)
    assert release is not None  # refused above
    tell("writing ONNX")
    made = float_model(model, release)
    notes = [_built_there(release)]
    if recipe.options.get("sparsity"):
        notes.append("{} of {} layers have 2:4 sparse weights; TensorRT uses sparse kernels for these alone".format(*sparse_layers(made)))
    if recipe.precision == "int8":
        made, more = _int8(model, made, recipe, samples, release, tell)
        notes += more
    content = _bytes(made, model)
    inputs, outputs = ports(made)
    # no package is required: without TensorRT the device falls back to ONNX Runtime, and says so
    options = {**_build_options(recipe, release, len(content)), "dtypes": {p.name: p.dtype for p in (*inputs, *outputs)}}
    return Payload({"model.onnx": content}, "model.onnx", inputs, outputs, {}, options, tuple(notes))


def error_report(model: Source, recipe: Recipe, payload: Payload, samples: Any) -> list[LayerError]:
    """What int8 costs, one row for each layer: see `sdk.backends.tensorrt.report`."""
    from sdk.backends.tensorrt import report

    return report.error_report(model, recipe, payload, samples)


def _built_there(release: Release) -> str:
    return f"the engine is built on the Jetson when the artifact is first opened there (TensorRT {release.name} or newer) and kept beside it"


def _int8(model: Source, made: Any, recipe: Recipe, samples: Any, release: Release, tell: Callable[[str], None]) -> tuple[Any, list[str]]:
    """The quantised model and notes on what stays float. A model that came quantised is taken as it is, if the linter finds it good."""
    from sdk.backends.tensorrt.lint import lint
    from sdk.backends.tensorrt.qdq import quantised

    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear") or n.op_type.startswith("QLinear") for n in made.graph.node):
        faults = lint(made, release)
        if faults:
            raise UnsupportedOp(f"{model.name} is quantised in a way TensorRT does not read ({faults[0]}); load its float original with calibration samples")
        return made, ["the model's own quantisation is kept"]
    tell("calibrating")
    result, found = quantised(made, samples, recipe.options.get("range", "mse"))
    faults = lint(result, release)
    if faults:
        raise EmbarqError(f"our own Q/DQ model breaks a TensorRT rule, a defect of ours: {faults[0]}")
    return result, [f"{len(found.weights)} layers are int8", *found.left]


def _build_options(recipe: Recipe, release: Release, size: int) -> dict[str, Any]:
    """What the builder on the device is told."""
    flags = {"float32": [], "float16": ["fp16"], "int8": ["int8"]}[recipe.precision]  # type: ignore[var-annotated]
    if recipe.precision == "int8" and recipe.options.get("fp16", True):
        flags = [*flags, "fp16"]
    if recipe.options.get("sparsity"):
        flags = [*flags, "sparse_weights"]
    return {
        "flags": sorted(flags), "workspace_bytes": recipe.options.get("workspace_bytes", WORKSPACE_BYTES), "weights_bytes": size,
        "tensorrt_min": release.name, "opset": release.opset,
    }  # fmt: skip


def _bytes(made: Any, model: Source) -> bytes:
    """The file, the same bytes each time. Inferred shapes of inner tensors are left out: TensorRT finds its own."""
    if made.ByteSize() > LIMIT_BYTES:
        raise UnsupportedOp(f"{model.name} is larger than the 2 GiB that one ONNX file holds; choose a smaller model")
    del made.graph.value_info[:]
    return bytes(made.SerializeToString(deterministic=True))
