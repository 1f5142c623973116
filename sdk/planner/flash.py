"""Flash a firmware takes, before it is built: code, weights, parameters, tables, initial values of data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from sdk.graph.ir import Graph
from sdk.planner.bounds import round_up
from sdk.planner.measured import Footprint
from sdk.planner.structs import struct_sizes

if TYPE_CHECKING:
    from sdk.kernels.base import Call
    from sdk.planner.mcu_training import TrainingUse

PLAN_ID_BYTES = 32
POINTER_BYTES = 4  # of embarq_the_training and embarq_the_learning, each
NAME_BYTES = 63  # the code generator cuts names to this


@dataclass(frozen=True)
class FlashUse:
    """Bytes of flash by purpose."""

    code: int  # instructions, and constants that belong to them
    weights: int  # constant arrays of the kernels, equal ones once
    parameters: int  # one struct a step
    tables: int  # steps, inputs, outputs, names, the model itself
    data: int  # initial values of .data

    @property
    def total(self) -> int:
        """All of it."""
        return self.code + self.weights + self.parameters + self.tables + self.data

    def parts(self) -> tuple[tuple[str, int], ...]:
        """(purpose, bytes)."""
        return tuple((f.name, getattr(self, f.name)) for f in fields(self))


def flash_breakdown(graph: Graph, calls: Sequence[Call], code: Footprint, training: TrainingUse | None = None) -> FlashUse:
    """Flash of the firmware that runs `calls`: what `sdk.backends.firmware` writes, counted without compiling it."""
    sizes = struct_sizes()
    tensors = [*graph.inputs, *graph.outputs]
    if training:
        tensors += [graph.inputs[0], training.logits]  # inference has tables of its own
    parameters = sum(struct_bytes(call) for call in calls)
    tables = max(len(calls), 1) * sizes["embarq_step"]
    tables += len(tensors) * sizes["embarq_tensor"] + sizes["embarq_model"] + PLAN_ID_BYTES
    names = {graph.name[:NAME_BYTES], *(name[:NAME_BYTES] for name in tensors)}
    tables += sizes["embarq_memory"] + 4 + 2 * POINTER_BYTES
    weights = weight_bytes(array for call in calls for array in call.constants.values())
    if training:
        names |= {v.name[:NAME_BYTES] for v in training.variables}
        tables += sizes["embarq_model"] + sizes["embarq_training"] + len(training.variables) * sizes["embarq_variable"]
        weights += sum(round_up(v.size_bytes, 4) for v in training.variables if v.initial is not None)
    tables += sum(len(name) + 1 for name in names)
    return FlashUse(round_up(code.text, 4) + round_up(code.rodata, 4), weights, parameters, round_up(tables, 4), round_up(code.data, 4))


def struct_bytes(call: Call) -> int:
    """Bytes of a call's parameter struct; four a value where the header does not declare it."""
    size = struct_sizes().get(call.struct)
    return round_up(size if size is not None else 4 * sum(_values(value) for _, value in call.fields), 4)


def _values(value: object) -> int:
    return sum(_values(v) for v in value) if isinstance(value, (tuple, list)) else 1


def weight_bytes(arrays: Iterable[np.ndarray]) -> int:
    """Bytes of constant arrays, each aligned to 4; an array that comes twice is stored once."""
    seen: set[tuple[str, int, int]] = set()
    total = 0
    for array in arrays:
        content = np.ascontiguousarray(array)
        key = (str(content.dtype), content.size, hash(content.tobytes()))
        if key not in seen:
            seen.add(key)
            total += round_up(max(content.nbytes, content.itemsize), 4)
    return total
