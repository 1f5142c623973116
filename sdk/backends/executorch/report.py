"""What int8 costs a torch program, layer by layer: the observed float module beside the quantised one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdk.backends.executorch.emit import ready
from sdk.backends.executorch.lower import arguments, run
from sdk.backends.executorch.quantise import converted, prepared, zero_inputs
from sdk.backends.foreign import one_sentence, quiet
from sdk.backends.payload import Payload
from sdk.backends.samples import LayerError, calibration, sqnr_db
from sdk.backends.source import Source
from sdk.planner.recipes import Recipe

_SAMPLES = 8
#: What computes nothing: its noise is that of the layer before.
_MOVES = ("view", "_unsafe_view", "reshape", "permute", "transpose", "flatten", "slice", "clone", "contiguous", "unsqueeze", "squeeze", "select",
          "detach", "expand", "narrow")  # fmt: skip


def error_report(model: Source, recipe: Recipe, payload: Payload, samples: Any) -> list[LayerError]:
    """One row per layer, in order of execution, and one per output of the payload itself, which the engine computes.

    The rows of layers come from the quantiser's model of the arithmetic, in float: a `.pte` gives no intermediate results.
    samples: those given to `emit`; the figures are over the first eight. A float32 payload has rows for its outputs only.
    """
    feeds = calibration(samples, payload.inputs, model.name)
    with one_sentence(f"ExecuTorch cannot report on {model.name} at {recipe.precision}", "compile it again"):
        layers = _layers(model, recipe.precision, feeds) if recipe.precision != "float32" else []
    return [*layers, *_outputs(model, payload, feeds[:_SAMPLES])]


def _layers(model: Source, precision: str, feeds: Sequence[Sequence[np.ndarray]]) -> list[LayerError]:
    program = ready(model)
    module = prepared(program, feeds if precision == "int8" else [zero_inputs(program)], precision)
    shown = [arguments(program, arrays) for arrays in feeds[:_SAMPLES]]
    before = _values(module, shown)
    after = _values(converted(module), shown)
    return [LayerError(name, op, sqnr_db(value, after[name, op])) for (name, op), value in before.items() if (name, op) in after]


def _outputs(model: Source, payload: Payload, feeds: Sequence[Sequence[np.ndarray]]) -> list[LayerError]:
    import torch

    with quiet(), torch.no_grad():
        module = model.program.module(check_guards=False)
        calls = [arguments(model.program, arrays) for arrays in feeds]
        wanted = [torch.utils._pytree.tree_leaves(module(*args, **kwargs)) for args, kwargs in calls]
    found = run(payload.files[payload.entry], feeds)
    return [
        LayerError(port.name, "output", sqnr_db(np.stack([w[i].numpy() for w in wanted]), np.stack([f[i] for f in found])))
        for i, port in enumerate(payload.outputs)
    ]


def _values(module: Any, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> dict[tuple[str, str], np.ndarray]:
    """(node, op) -> its float results over all calls, for nodes that compute something."""
    import torch

    seen: dict[tuple[str, str], list[np.ndarray]] = {}

    class Watch(torch.fx.Interpreter):
        """Keeps what every node computes."""

        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            schema = getattr(n.target, "_schema", None)
            if schema is not None and schema.name.startswith("aten::") and isinstance(result, torch.Tensor) and result.is_floating_point():
                op = schema.name.removeprefix("aten::")
                if op not in _MOVES:
                    seen.setdefault((n.name, op), []).append(result.detach().numpy().copy())
            return result

    with torch.no_grad():
        for args, kwargs in calls:
            Watch(module).run(*torch.utils._pytree.tree_leaves((args, kwargs)))
    return {key: np.stack(values) for key, values in seen.items()}
