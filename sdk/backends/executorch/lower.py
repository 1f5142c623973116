"""A `torch.export` program as a `.pte` file: XNNPACK takes what it can, portable kernels the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.backends.foreign import one_sentence, quiet, require
from sdk.backends.payload import Port
from sdk.backends.source import Source

EXTRA = "executorch"
_MEND = "choose backend onnx, or write that part of the model with other operators"


@dataclass(frozen=True)
class Lowered:
    """The file, and the operators that XNNPACK did not take (name -> how often): they run in portable kernels, on one thread."""

    content: bytes
    portable: Mapping[str, int]
    delegates: int


def lower(program: Any, name: str, precision: str) -> Lowered:
    """The `.pte` of an exported program. Raises UnsupportedOp or ModelError, one sentence, where ExecuTorch cannot take it."""
    require("executorch.exir", EXTRA, "compiling for ExecuTorch")
    with one_sentence(f"{name} cannot be lowered to ExecuTorch", _MEND):
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(program, partitioner=_partitioners(precision))
        left = _targets(edge.exported_program())
        content = bytes(edge.to_executorch().buffer)
    portable = Counter(target for target in left if target not in ("getitem", "executorch_call_delegate"))
    return Lowered(content, dict(portable), left.count("executorch_call_delegate"))


def _partitioners(precision: str) -> list[Any]:
    """Who takes operators, in order. Dynamic layers go first and one by one: a larger partition with float around them is refused by XNNPACK."""
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    dynamic = [XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)] if precision == "dynamic-int8" else []
    return [*dynamic, XnnpackPartitioner()]


def _targets(program: Any) -> list[str]:
    """Short names of what the program calls: `native_layer_norm`, `executorch_call_delegate`."""
    return [_short(node.target) for node in program.graph.nodes if node.op == "call_function"]


def _short(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    return str(schema.name).split("::")[-1] if schema is not None else str(getattr(target, "__name__", target))


def ports(model: Source) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """(inputs, outputs) of the model's program: names of the graph, shapes and data types of the program, which are the source's own."""
    program = model.program
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    return _named(model.graph.inputs, signature.user_inputs, values), _named(model.graph.outputs, signature.user_outputs, values)


def _named(names: Sequence[str], own: Iterable[str], values: Mapping[str, Any]) -> tuple[Port, ...]:
    return tuple(
        Port(name, tuple(int(d) for d in values[key].shape), str(values[key].dtype).removeprefix("torch.")) for name, key in zip(names, own, strict=True)
    )


def arguments(program: Any, arrays: Sequence[np.ndarray]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` of the program's module from its inputs in order."""
    import torch

    tensors = [torch.from_numpy(np.array(array, order="C")) for array in arrays]  # a copy: the caller's array may be read-only
    args, kwargs = torch.utils._pytree.tree_unflatten(tensors, program.call_spec.in_spec)
    return tuple(args), dict(kwargs)


def run(content: bytes, feeds: Iterable[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """The payload's outputs for each sample, computed on this computer by ExecuTorch's Python runtime.

    How many threads it uses is the process's: `executorch.extension.pybindings.portable_lib._unsafe_reset_threadpool(n)`, before a program is loaded.
    """
    require("executorch.runtime", EXTRA, "running a .pte file")
    import torch
    from executorch.runtime import Runtime

    with quiet():
        program = Runtime.get().load_program(content)
        method = program.load_method("forward")
        # in C order: the runtime takes the bytes as they lie, whatever the strides say
        # cloned: the runtime gives views of memory that the next call overwrites
        return [[value.clone().numpy() for value in method.execute([torch.from_numpy(np.array(a, order="C")) for a in arrays])] for arrays in feeds]
