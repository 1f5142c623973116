"""The native backend: a model and a recipe in, a shared library for each kind of machine out.

What runs is our own graph on our own portable kernels, one thread: in int8 the very integers that the interpreter computes, so
that an artifact is proved to the bit on whatever machine it lands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sdk.backends.litert.interface import keep_names
from sdk.backends.native.build import MACHINES, digest, libraries, sources
from sdk.backends.native.layout import PORTABLE, Laid, lay_out
from sdk.backends.payload import Payload, Port
from sdk.backends.samples import LayerError
from sdk.backends.source import Source
from sdk.errors import UnsupportedOp, UsageError
from sdk.graph.ir import Graph, Tensor
from sdk.planner.assess import lower_all
from sdk.planner.linux_records import PeakMemory
from sdk.planner.recipes import Recipe

ENTRY = "native.json"
FORMAT = "embarq-native"
VERSION = 1
#: Steps whose floats another machine's compiler and libm may round otherwise; between integers only `quantize` and `dequantize` stand.
EXACT_FLOAT = ("embarq_quantize_f32", "embarq_dequantize_int")
#: Python, numpy and the runner with nothing loaded, peak resident: measured 2026-11-27 with Python 3.11 and numpy 2.4 on x86-64 Linux.
PROCESS_BYTES = 36_900_000
BASIS = (
    "Native: the process as measured on 2026-11-27 on x86-64 with Python 3.11 and numpy 2.4; arena, constants and the arrays at the edges are the "
    "model's own, to the byte."
)


def refusal(model: Source, recipe: Recipe) -> str | None:
    """Why the native engine cannot run `model` as `recipe` asks, with the mend; None when it can."""
    if recipe.precision not in ("float32", "int8"):
        return f"the native engine computes in float32 and int8, not in {recipe.precision}; choose one of them, or another engine"
    if recipe.threads != 1:
        return f"the native engine runs on one thread and {recipe.threads} were asked for; give threads=1, or choose another engine"
    if model.is_quantised and recipe.precision == "float32":
        return f"{model.name} is quantised and was asked for in float32; load the float model, or choose int8"
    if recipe.options:
        return f"the native engine has no option {next(iter(recipe.options))!r}; leave it out"
    try:
        lower_all(_prepared(model.graph, model.graph.outputs), PORTABLE)
    except UnsupportedOp as error:
        return f"{model.name}: {_of_this_engine(error)}"
    return None


def _of_this_engine(error: UnsupportedOp) -> str:
    """The kernel table's sentence, with a mend for someone who has a Linux device already."""
    text = str(error).replace("microcontroller kernel", "kernel of ours").replace("choose a Linux device", "choose the engine onnx, litert or executorch")
    return text.replace("kernel of ourss", "kernels of ours")


def emit(
    model: Source, recipe: Recipe, samples: Any = (), progress: Callable[[str], None] | None = None, machines: Sequence[str] = tuple(MACHINES)
) -> Payload:
    """The payload: `native.json`, which says which library is whose, and a library for each of `machines`.

    samples: calibration inputs for int8. Raises UnsupportedOp with `refusal`'s sentence, UsageError when int8 lacks samples,
    ToolError when the compiler is missing.
    """
    reason = refusal(model, recipe)
    if reason:
        raise UnsupportedOp(reason)
    tell = progress or (lambda _: None)
    laid = lay_out(graph_of(model, recipe.precision, samples, tell))
    built = libraries(laid, machines, tell)
    index = {
        "format": FORMAT, "version": VERSION, "sources": digest(sources(laid)), "libraries": {machine: f"{machine}.so" for machine in built},
        "steps": laid.steps, "inputs": list(model.graph.inputs), "outputs": list(model.graph.outputs),
    }  # fmt: skip
    files = {ENTRY: (json.dumps(index, sort_keys=True, indent=1) + "\n").encode()} | {f"{machine}.so": content for machine, content in built.items()}
    inputs, outputs = (tuple(_port(laid.graph[name]) for name in names) for names in (model.graph.inputs, model.graph.outputs))
    notes = (f"A library each for {', '.join(built)}; {laid.arena_bytes:,} bytes of arena, one thread.",)
    return Payload(files, ENTRY, inputs, outputs, {}, {}, notes, 0.0 if is_exact(laid) else None)


def graph_of(model: Source, precision: str, samples: Any, progress: Callable[[str], None] | None = None) -> Graph:
    """The graph that is compiled, with the source's inputs and outputs: as it stands for float32 and quantised models, else quantised on `samples`."""
    if precision == "float32" or model.is_quantised:
        return _prepared(model.graph, model.graph.outputs)
    if samples is None or (isinstance(samples, (tuple, list)) and not len(samples)):
        raise UsageError(f"{model.name} is a float model: int8 needs calibration data; give calibration=, a few hundred real inputs")
    if progress:
        progress("calibrating int8")
    return _prepared(_quantised(model, samples)[1], model.graph.outputs)


def _quantised(model: Source, samples: Any) -> tuple[Graph, Graph]:
    """(the float graph, the int8 graph), real numbers at the edges."""
    from sdk.passes.pipeline import prepare
    from sdk.passes.quantise import QuantOptions, quantise

    real = prepare(model.graph)
    return real, quantise(real, samples, QuantOptions(float_io=True))


def _prepared(graph: Graph, outputs: Sequence[str]) -> Graph:
    """After the passes, with its outputs called `outputs`."""
    from sdk.passes.pipeline import prepare

    return keep_names(prepare(graph), outputs)


def is_exact(laid: Laid) -> bool:
    """True when every machine computes the same bytes: no step but the edges touches a float."""
    return all(call.function in EXACT_FLOAT or not _touches_float(laid, call.node) for call in laid.calls)


def _touches_float(laid: Laid, name: str) -> bool:
    node = next(n for n in laid.graph.nodes if n.name == name)
    return any(laid.graph[t].dtype == "float32" for t in (*node.inputs, *node.outputs) if t)


def peak_memory(model: Source, recipe: Recipe) -> PeakMemory:
    """Predicted peak of the process: Python with numpy, the library's constants, the arena and the arrays handed in and out.

    An int8 net is laid out as one random input would quantise it: same ops and sizes, other numbers.
    """
    from sdk.golden import random_inputs

    samples = [dict(zip(model.graph.inputs, row, strict=True)) for row in random_inputs(model.graph, 1)]
    laid = lay_out(graph_of(model, recipe.precision, samples))
    edges = sum(model.graph[name].size_bytes for name in (*model.graph.inputs, *model.graph.outputs))
    return PeakMemory(PROCESS_BYTES, sum(_constant_bytes(laid)), laid.arena_bytes + edges, BASIS)


def _constant_bytes(laid: Laid) -> Iterator[int]:
    """Bytes of every distinct constant that the kernels read."""
    seen: set[tuple[str, bytes]] = set()
    for call in laid.calls:
        for array in call.constants.values():
            key = (str(array.dtype), array.tobytes())
            if key not in seen:
                seen.add(key)
                yield array.nbytes


def error_report(model: Source, recipe: Recipe, payload: Payload, samples: Any) -> list[LayerError]:
    """What int8 costs each layer, in order of execution; none for float32 and for a model that came quantised."""
    from sdk.passes.quant_report import report

    if recipe.precision != "int8" or model.is_quantised:
        return []
    real, made = _quantised(model, samples)
    return [LayerError(row.node, row.op, row.sqnr_db) for row in report(real, made, samples).rows]


def _port(tensor: Tensor) -> Port:
    quantised = tensor.quant is not None and tensor.quant.axis is None
    return Port(tensor.name, tensor.shape, tensor.dtype, tensor.scale if quantised else None, tensor.zero_point if quantised else None)


__all__ = ["MACHINES", "emit", "error_report", "graph_of", "is_exact", "peak_memory", "refusal"]
