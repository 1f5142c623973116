"""Read a torch module, or a saved `torch.export` program, as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.graph.torch_import.export import export_program, functional, import_torch

__all__ = ["export_program", "from_torch"]


def from_torch(module_or_path: Any, example: Any = None, *, input_layout: str | None = None, name: str | None = None) -> Graph:
    """The float graph of an `nn.Module` (with an example input), a `.pt2` file or an `ExportedProgram`.

    example: one input, a tuple of inputs, or a dict of keyword inputs; tensors or numpy arrays of the fixed shape, batch included.
    input_layout: None keeps the model's own layout. "nhwc" declares every input of four dimensions [N, H, W, C] instead of
    torch's [N, C, H, W], so that the device gets the picture as a camera gives it and nothing is transposed.

    Weights keep their name in the module as `origin`. An ATen op the graph has no name for becomes an `opaque` node with its
    name and its line in the user's source. Raises UsageError for a missing or unfit example, ModelError for a module that
    cannot be traced, has no fixed shapes, or holds NaN.

        from_torch(torch.nn.Linear(4, 2), torch.zeros(1, 4))   # one dense node, input "input" float32[1, 4]
    """
    if input_layout not in (None, "nhwc"):
        raise UsageError(f"input_layout is {input_layout!r}; it must be None or 'nhwc'")
    from sdk.graph.torch_import import layers, math, moves
    from sdk.graph.torch_import.walk import Walk

    torch = import_torch()
    program = functional(export_program(module_or_path, example))
    handlers = {**moves.HANDLERS, **math.HANDLERS, **layers.HANDLERS}
    return Walk(torch, program, handlers, name or _name(module_or_path), input_layout).run()


def _name(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return Path(source).stem
    kind = type(source).__name__.lower()
    return "model" if kind == "exportedprogram" else kind
