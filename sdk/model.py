"""`load`: whatever the user has, as a `Model`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdk.errors import ModelError, UsageError
from sdk.graph.ir import Graph

#: File ending -> the kind of source it is.
KINDS = {".tflite": "tflite", ".onnx": "onnx", ".pt2": "torch"}


@dataclass(frozen=True)
class Model:
    """A model that can be planned: its graph, and what it was read from.

    `kind` is "tflite", "onnx", "torch" or "graph"; `source` is the file, or the module, it came from. A torch model keeps its
    `program` (`torch.export.ExportedProgram`, static shapes) beside the graph: engines for Linux devices are reached from it.
    """

    name: str
    graph: Graph
    kind: str
    source: Any = field(default=None, repr=False, compare=False)
    program: Any = field(default=None, repr=False, compare=False)

    @property
    def is_quantised(self) -> bool:
        """True when some activation is an integer with a scale, so that the model needs no calibration."""
        return any(t.quant is not None and t.dtype in ("int8", "int16") for t in self.graph.activations())

    def content(self) -> bytes:
        """The bytes of the file the model came from. Raises UsageError when it came from none, or the file is gone."""
        if not isinstance(self.source, Path):
            raise UsageError(f"{self.name} did not come from a file")
        try:
            return self.source.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {self.source} again: {error.strerror}; put the file back and load it anew") from error

    def __str__(self) -> str:
        g = self.graph
        shapes = ", ".join(f"{t.dtype}{list(t.shape)}" for t in (g[n] for n in g.inputs))
        return f"{self.name}: {self.kind}, {len(g.nodes)} ops, input {shapes}, {sum(t.size_bytes for t in g.constants()):,} bytes of weights"


def load(
    source: Any, example: Any = None, *, name: str | None = None, input_layout: str | None = None, prepare: Sequence[Callable[[Any], Any]] = (),
    batch: int | None = None,
) -> Model:  # fmt: skip
    """Read a model.

    source: an `nn.Module` (with `example`, one input of its fixed shape), a `.pt2`, `.onnx` or `.tflite` file, or a `Graph`.
    example: for an .onnx file only where its shapes are not fixed: its shape stands for them.
    input_layout: "nhwc" to hand a channel-first torch or ONNX model channel-last inputs, without a transpose on the device.
    prepare: functions from a module to a module, applied in order to a copy of an `nn.Module` before it is exported: where methods
    that merge tokens or remove layers act.
    batch: the first dimension of every input of an .onnx file that leaves it open.
    Raises `ModelError` when the model is damaged or has no fixed shapes, `UsageError` when it is none of these.
    """
    prepared = _prepared(source, prepare) if prepare else source
    model = _load(prepared, example, name or (type(source).__name__.lower() if prepare else None), input_layout, batch)
    from sdk.graph.verify import verify

    verify(model.graph)
    return model


def _prepared(module: Any, prepare: Sequence[Callable[[Any], Any]]) -> Any:
    """A copy of `module` after every function; the user's own stays as it is."""
    if not (hasattr(module, "state_dict") and callable(module)):
        raise UsageError(f"prepare= changes a torch module before it is exported, and {type(module).__name__} is none; give the nn.Module")
    made = copy.deepcopy(module)
    for step in prepare:
        made = step(made)
        if not (hasattr(made, "state_dict") and callable(made)):
            raise UsageError(f"prepare step {getattr(step, '__name__', step)!r} returned a {type(made).__name__}; return the nn.Module it made")
    return made


def _load(source: Any, example: Any, name: str | None, input_layout: str | None, batch: int | None) -> Model:
    if isinstance(source, Model):
        return replace(source, name=name or source.name)
    if isinstance(source, Graph):
        return Model(name or source.name, source, "graph")
    if isinstance(source, (str, Path)):
        return _load_file(Path(source), example, name, input_layout, batch)
    if batch is not None:
        raise UsageError("batch= is for .onnx files; give a torch module an example= whose first dimension it is")
    if hasattr(source, "state_dict") and callable(source):
        return _load_torch(source, example, name or type(source).__name__.lower(), input_layout)
    raise UsageError(f"cannot load a {type(source).__name__}; give an nn.Module with an example, or a .tflite, .onnx or .pt2 file")


def _load_file(path: Path, example: Any, name: str | None, input_layout: str | None, batch: int | None) -> Model:
    kind = KINDS.get(path.suffix.lower())
    if batch is not None and (kind != "onnx" or batch < 1):
        raise UsageError(f"batch {batch} cannot be set for {path}: " + ("give 1 or more" if kind == "onnx" else "only .onnx files leave it open"))
    if kind is None:
        raise UsageError(f"cannot load {path}: its ending is {path.suffix or 'missing'!r}; known are {', '.join(KINDS)}")
    if not path.is_file():
        raise UsageError(f"cannot load {path}: there is no such file")
    name = name or path.stem
    if kind == "torch":
        return _load_torch(path, example, name, input_layout)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot load {path}: {error.strerror}") from error
    try:
        graph = _read_bytes(kind, content, path, example, input_layout, batch)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error
    return Model(name, replace(graph, name=name), kind, path)


def _read_bytes(kind: str, content: bytes, path: Path, example: Any, input_layout: str | None, batch: int | None) -> Graph:
    if kind == "tflite":
        from sdk.graph.from_tflite import from_tflite

        return from_tflite(content)
    from sdk.graph.from_onnx import from_onnx

    return from_onnx(content, example, batch=batch, folder=path.resolve().parent, input_layout=input_layout)


def _load_torch(source: Any, example: Any, name: str, input_layout: str | None) -> Model:
    from sdk.graph.from_torch import export_program, from_torch

    program = export_program(source, example)
    graph = from_torch(program, input_layout=input_layout)
    return Model(name, replace(graph, name=name), "torch", source, program)
