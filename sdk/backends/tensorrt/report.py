"""What int8 costs a TensorRT model, layer by layer: the float and the Q/DQ model run beside each other on ONNX Runtime's CPU."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from sdk.backends.onnx.export import ports
from sdk.backends.payload import Payload
from sdk.backends.samples import LayerError, arrays, sqnr_db
from sdk.backends.source import Source
from sdk.backends.tensorrt.calibrate import computed, watching
from sdk.backends.tensorrt.export import float_model
from sdk.backends.tensorrt.qdq import places
from sdk.backends.tensorrt.versions import release_for
from sdk.errors import DataError, UnsupportedOp
from sdk.planner.recipes import Recipe

_SAMPLES = 8


def error_report(model: Source, recipe: Recipe, payload: Payload, samples: Any) -> list[LayerError]:
    """One row for each int8 layer and each output, in order of execution: its float result beside the one with everything in front quantised.

    samples: as for `emit`; the first eight are used. Raises DataError for unfit ones, UnsupportedOp for a release that is not known.
    """
    import onnx

    release = release_for(recipe.options)
    if release is None:
        raise UnsupportedOp(f"TensorRT {recipe.options.get('tensorrt')!r} is not known")
    reference, quantised = float_model(model, release), onnx.load_from_string(payload.files[payload.entry])
    ops = {node.output[0]: node.op_type for node in reference.graph.node}
    layers = [name for name in ops if name in {*places(reference).weights, *(o.name for o in reference.graph.output)}]
    feeds = list(islice(arrays(samples, ports(reference)[0]), _SAMPLES))
    if not feeds:
        raise DataError("the report needs samples and there are none; give some inputs")
    before, after = (_values(m, layers, feeds) for m in (reference, quantised))
    return [LayerError(name, ops[name], sqnr_db(before[name], after[name])) for name in layers]


def _values(model: Any, names: list[str], feeds: list[tuple[np.ndarray, ...]]) -> dict[str, np.ndarray]:
    """The tensors over all samples, stacked."""
    session, inputs = watching(model, names), ports(model)[0]
    runs = [computed(session, {p.name: a for p, a in zip(inputs, feed, strict=True)}, names) for feed in feeds]
    return {name: np.stack([run[name] for run in runs]) for name in names}
