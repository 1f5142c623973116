"""The ExecuTorch backend: what it can take, and the file it hands over."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from sdk.backends.executorch.lower import EXTRA, Lowered, lower, ports
from sdk.backends.executorch.quantise import dynamic_int8, static_int8
from sdk.backends.executorch.rewrite import simplified
from sdk.backends.foreign import one_sentence, require
from sdk.backends.payload import Payload
from sdk.backends.samples import calibration
from sdk.backends.source import Source
from sdk.errors import UsageError
from sdk.planner.recipes import Recipe

ENTRY = "model.pte"


def refusal(model: Source, recipe: Recipe) -> str | None:
    """Why ExecuTorch cannot have `model` as `recipe` says, one sentence with the mend; None when it can. Exports nothing."""
    if model.kind != "torch":
        other = "onnx" if model.kind == "onnx" else "litert"
        return f"{model.name} is a {model.kind} model and ExecuTorch takes torch programs only; choose backend {other}"
    if recipe.precision == "float16":
        return "float16 is not offered for ExecuTorch; choose precision float32 or int8, or backend tensorrt"
    if recipe.options:
        return f"backend executorch has no option {next(iter(recipe.options))!r}; it takes none"
    if recipe.precision == "dynamic-int8" and not any(_is_linear(node) for node in model.program.graph.nodes):
        return f"{model.name} has no linear layer, which is all that dynamic-int8 quantises; choose precision int8 or float32"
    return None


def emit(model: Source, recipe: Recipe, samples: Any = (), progress: Callable[[str], None] | None = None) -> Payload:
    """`model.pte` at the recipe's precision.

    samples: calibration inputs for precision int8, in the source's shapes; see `sdk.backends.samples.arrays`.
    Raises UsageError where `refusal` has a reason, DataError for unfit samples, UnsupportedOp and ModelError from the exporter.
    """
    reason = refusal(model, recipe)
    if reason:
        raise UsageError(reason)
    require("executorch.exir", EXTRA, "compiling for ExecuTorch")
    tell = progress or (lambda _: None)
    inputs, outputs = ports(model)
    lowered = lower(_program(model, recipe, samples, tell), model.name, recipe.precision)
    return Payload({ENTRY: lowered.content}, ENTRY, inputs, outputs, {"executorch": version("executorch")}, notes=_notes(lowered))


def ready(model: Source) -> Any:
    """The model's program as it is quantised and lowered."""
    with one_sentence(f"{model.name} cannot be prepared for ExecuTorch", "choose backend onnx"):
        return simplified(model.program)


def _program(model: Source, recipe: Recipe, samples: Any, tell: Callable[[str], None]) -> Any:
    program = ready(model)
    if recipe.precision == "dynamic-int8":
        tell("quantising weights")
        program = dynamic_int8(program, model.name)
    elif recipe.precision == "int8":
        feeds = calibration(samples, ports(model)[0], model.name)
        tell(f"calibrating on {len(feeds)} samples")
        program = static_int8(program, feeds, model.name)
    tell("lowering to XNNPACK")
    return program


def _is_linear(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.name in ("aten::linear", "aten::addmm", "aten::mm")


def _notes(lowered: Lowered) -> tuple[str, ...]:
    if not lowered.portable:
        return ()
    named = ", ".join(f"{name} ({count})" for name, count in sorted(lowered.portable.items(), key=lambda item: (-item[1], item[0])))
    return (f"XNNPACK does not take {named}; these run in ExecuTorch's portable kernels, on one thread.",)
