"""What int8 costs each layer of a LiteRT payload."""

from __future__ import annotations

from typing import Any

from sdk.backends.litert.backend import quantised
from sdk.backends.payload import Payload
from sdk.backends.samples import LayerError
from sdk.backends.source import Source
from sdk.planner.recipes import Recipe


def error_report(model: Source, recipe: Recipe, payload: Payload, samples: Any) -> list[LayerError]:
    """One row per layer, in order of execution, from our own quantiser, whose bytes the payload's are; none for float32 and for
    a model that came quantised, which leaves nothing to compare with.

    samples: those given to `emit`. Raises DataError for unfit ones.
    """
    from sdk.passes.quant_report import report

    if recipe.precision != "int8" or model.is_quantised:
        return []
    real, made, _ = quantised(model.graph, samples)
    return [LayerError(row.node, row.op, row.sqnr_db) for row in report(real, made, samples).rows]
