"""A model made ready to be trained: quantised, with every channel it has, and the float graph its integers came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdk.data import read
from sdk.errors import UsageError
from sdk.golden import check_input
from sdk.graph.ir import Graph
from sdk.passes.constant_channels import remove_constant_channels
from sdk.passes.pipeline import FLOAT, QUANTISED, Pass, apply
from sdk.passes.quantise import QuantOptions, convert
from sdk.passes.quantise import prepare as observe

#: Samples that bases are learnt from.
BASIS_SAMPLES = 64
#: `QUANTISED` without the pass that takes channels out: one that is constant today may be worth learning with tomorrow.
KEEPS_CHANNELS: tuple[Pass, ...] = tuple(one for one in QUANTISED if one is not remove_constant_channels)


@dataclass(frozen=True)
class Ready:
    """`graph` runs on the board; `real` is the float graph it was quantised from, in the same scaling, None where the model came
    quantised or stays in float32. `samples`: inputs as `graph` takes them."""

    graph: Graph
    real: Graph | None = field(default=None, repr=False)
    samples: tuple[np.ndarray, ...] = field(default=(), repr=False)
    decisions: tuple[str, ...] = ()


def ready(model: Any, calibration: Any = None, quant: QuantOptions | None = None, precision: str = "auto") -> Ready:
    """The model (a `Graph`, or anything with a `graph`) after its passes.

    Quantised where it is not yet and `calibration` (what `sdk.data.read` takes) is given, unless precision is "float32".
    Raises UsageError for a float model that is wanted in int8 without calibration.
    """
    graph: Graph = model if isinstance(model, Graph) else model.graph
    integer = any(t.quant is not None and t.dtype in ("int8", "int16") for t in graph.activations())
    if integer:
        done = apply(graph, KEEPS_CHANNELS)
        return Ready(done, None, _inputs(done, calibration, BASIS_SAMPLES), ("The model came quantised; its integers are kept as they are.",))
    real = apply(graph, FLOAT)
    if precision == "float32" or (precision == "auto" and calibration is None):
        return Ready(real, None, _inputs(real, calibration, BASIS_SAMPLES), ("The model stays in float32.",))
    if calibration is None:
        raise UsageError(f"{graph.name} is a float model: int8 needs calibration data; give calibration=, a few hundred real inputs")
    options = quant or QuantOptions()
    samples = read(calibration, real, options.samples)
    prepared = observe(real, samples, options)
    done = apply(convert(prepared, options), KEEPS_CHANNELS)
    rows = [samples.load(i)[real.inputs[0]] for i in range(min(samples.count, BASIS_SAMPLES))]
    told = f"Quantised on {samples.count} calibration samples: {options}."
    return Ready(done, prepared.graph, tuple(check_input(done[done.inputs[0]], row) for row in rows), (told,))


def _inputs(graph: Graph, calibration: Any, limit: int) -> tuple[np.ndarray, ...]:
    """Calibration samples as an integer model takes them: its own type, or real numbers, which are quantised."""
    if calibration is None or len(graph.inputs) != 1:
        return ()
    tensor = graph[graph.inputs[0]]
    if isinstance(calibration, np.ndarray) and calibration.dtype.kind == "f" and tensor.quant is not None:
        return tuple(check_input(tensor, row[None] if row.ndim < len(tensor.shape) else row) for row in calibration[:limit])
    samples = read(calibration, graph, limit)
    return tuple(samples.load(i)[tensor.name] for i in range(samples.count))
