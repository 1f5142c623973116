"""What the source model computes: the reference that every payload is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sdk.backends.foreign import one_sentence, require
from sdk.backends.onnx.emit import session
from sdk.errors import UsageError
from sdk.model import Model

Arrays = tuple[np.ndarray, ...]
Run = Callable[[Arrays], Arrays]


def reference(model: Model) -> Run:
    """A function from the model's inputs to its outputs, computed by the source's own framework: torch, ONNX Runtime, or our interpreter.

    Raises UsageError when that framework is not installed.
    """
    if model.kind == "torch":
        return _torch(model)
    if model.kind == "onnx":
        return _onnx(model)
    return _interpreted(model)


def _torch(model: Model) -> Run:
    torch = require("torch", "torch", "running a torch model")
    with one_sentence(f"{model.name} cannot be run from its exported program", "export it again"):
        module = model.program.module(check_guards=False)

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad(), one_sentence(f"{model.name} cannot compute the inputs it is to be proved with", "give real ones: vectors= or calibration="):
            found = module(*_arguments(torch, model.program, inputs))
        return tuple(np.ascontiguousarray(v.numpy()) for v in _flat(found))

    return run


def _arguments(torch: Any, program: Any, inputs: Arrays) -> Sequence[Any]:
    """Tensors of the types that the program was exported with."""
    wanted = [*program.example_inputs[0], *program.example_inputs[1].values()]
    if len(wanted) != len(inputs):
        raise UsageError(f"the model takes {len(wanted)} inputs and was given {len(inputs)}")
    return [torch.from_numpy(np.array(a, copy=True)).to(w.dtype) for a, w in zip(inputs, wanted, strict=True)]


def _flat(value: Any) -> list[Any]:
    """Tensors of a nested result, in order."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return [t for part in value for t in _flat(part)] if isinstance(value, (tuple, list)) else [value]


def _onnx(model: Model) -> Run:
    require("onnxruntime", "onnxruntime", "running an ONNX model")
    with one_sentence(f"ONNX Runtime refuses {model.name}", "export it again"):
        opened = session(model.content())
    names = [i.name for i in opened.get_inputs()]

    def run(inputs: Arrays) -> Arrays:
        return tuple(np.asarray(v) for v in opened.run(None, dict(zip(names, inputs, strict=True))))

    return run


def _interpreted(model: Model) -> Run:
    from sdk.graph.interpreter import run as interpret

    def run(inputs: Arrays) -> Arrays:
        values = interpret(model.graph, dict(zip(model.graph.inputs, inputs, strict=True)))
        return tuple(np.asarray(values[name]) for name in model.graph.outputs)

    return run
