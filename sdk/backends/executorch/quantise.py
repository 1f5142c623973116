"""int8 for XNNPACK by its own quantiser (PT2E, torchao): calibrated, or with activations scaled at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdk.backends.executorch.lower import EXTRA, arguments
from sdk.backends.foreign import one_sentence, require

_MEND = "choose precision float32 or backend onnx"


def static_int8(program: Any, feeds: Sequence[Sequence[np.ndarray]], name: str) -> Any:
    """The program with calibrated int8 activations and int8 weights, one scale per channel.

    feeds: samples, one array per input each. Raises UnsupportedOp or ModelError, one sentence, where the quantiser cannot.
    """
    _require()
    with one_sentence(f"XNNPACK's quantiser cannot take {name}", _MEND):
        module = prepared(program, feeds, "int8")
        return _exported(program, converted(module), feeds[0])


def dynamic_int8(program: Any, name: str) -> Any:
    """The program with int8 weights in its linear layers, one scale per channel; activations are scaled while it runs."""
    _require()
    with one_sentence(f"XNNPACK's quantiser cannot take {name}", _MEND):
        zeros = zero_inputs(program)
        return _exported(program, converted(prepared(program, [zeros], "dynamic-int8")), zeros)


def prepared(program: Any, feeds: Sequence[Sequence[np.ndarray]], precision: str) -> Any:
    """The program's module with observers that have seen `feeds`: still float, batch norms gone into their convolutions."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    module = prepare_pt2e(program.module(check_guards=False), _quantiser(program, precision))
    with torch.no_grad():
        for arrays in feeds:
            args, kwargs = arguments(program, arrays)
            module(*args, **kwargs)
    return module


def converted(module: Any) -> Any:
    """The prepared module with quantise and dequantise operators; changes `module`."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    return convert_pt2e(module)


def zero_inputs(program: Any) -> list[np.ndarray]:
    """An input of zeros (or tokens 0) for each of the program's."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return [np.zeros(tuple(v.shape), str(v.dtype).removeprefix("torch.")) for v in values]


def _quantiser(program: Any, precision: str) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    dynamic = precision == "dynamic-int8"
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    if dynamic:  # linear layers only: dynamic convolutions are slower than float ones
        return XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, config)
    if is_transformer(program):
        quantiser = XNNPACKQuantizer()
        for op in (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv1d.default):
            quantiser = quantiser.set_operator_type(op, config)
        return quantiser
    return XNNPACKQuantizer().set_global(config)


def is_transformer(program: Any) -> bool:
    """True when layers are normalised: then only layers with weights are worth int8, as sums and products around them stay float anyway."""
    return any(getattr(node.target, "_schema", None) is not None and node.target._schema.name == "aten::layer_norm" for node in program.graph.nodes)


def _exported(program: Any, module: Any, arrays: Sequence[np.ndarray]) -> Any:
    import torch

    args, kwargs = arguments(program, arrays)
    return torch.export.export(module, args, kwargs)


def _require() -> None:
    require("torchao.quantization.pt2e", EXTRA, "quantising for ExecuTorch")
    require("executorch.backends.xnnpack", EXTRA, "quantising for ExecuTorch")
