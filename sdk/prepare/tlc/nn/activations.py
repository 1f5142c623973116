"""Activations that may be removed, in every way they are written: modules, functions and methods become one module each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from sdk.prepare.tlc.nn.nodes import module_of

#: The class a name stands for.
CLASSES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hswish": nn.Hardswish, "gelu": nn.GELU, "silu": nn.SiLU, "leaky_relu": nn.LeakyReLU,
}  # fmt: skip
_FUNCTIONS: dict[Callable[..., Any], str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu6: "relu6", F.hardswish: "hswish", F.gelu: "gelu", F.silu: "silu",
    F.leaky_relu: "leaky_relu",
}  # fmt: skip
_METHODS = {"relu": "relu", "relu_": "relu"}
_CLIPS = (F.hardtanh, torch.clamp, torch.clip)
_CLIP_METHODS = ("clamp", "clamp_", "clip", "hardtanh_")


def name_of(layer: nn.Module | None) -> str | None:
    """The name of an activation module, None for anything else."""
    return next((name for name, kind in CLASSES.items() if type(layer) is kind), None)


def spelled(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """A fresh module for the activation that `node` is, working out of place; None when it is none.

    Leaves in `node.meta` how to call it ("spelling") and whether it worked in place ("inplace").
    """
    layer = module_of(module, node)
    made = _of_module(layer) if layer is not None else _of_function(node)
    if made is None:
        return None
    node.meta["spelling"] = name_of(made)
    function = str(getattr(node.target, "__name__", node.target))
    node.meta["inplace"] = bool(getattr(layer, "inplace", False) or node.kwargs.get("inplace") or (layer is None and function.endswith("_")))
    return made


def _of_module(layer: nn.Module) -> nn.Module | None:
    if type(layer) is nn.Hardtanh and (layer.min_val, layer.max_val) == (0, 6):
        return nn.ReLU6()
    name = name_of(layer)
    if name == "gelu":
        return nn.GELU(approximate=str(layer.approximate))
    if name == "leaky_relu":
        return nn.LeakyReLU(float(layer.negative_slope))  # type: ignore[arg-type]
    return None if name is None else CLASSES[name]()


def _of_function(node: fx.Node) -> nn.Module | None:
    if node.op not in ("call_function", "call_method"):
        return None
    name = _FUNCTIONS.get(node.target) if callable(node.target) else _METHODS.get(str(node.target))
    if name == "gelu":
        return nn.GELU(approximate=str(node.kwargs.get("approximate", "none")))
    if name == "leaky_relu":
        slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
        return nn.LeakyReLU(float(slope)) if isinstance(slope, int | float) else None
    if name is not None:
        return CLASSES[name]()
    return _of_clip(node) if node.target in _CLIPS or node.target in _CLIP_METHODS else None


def _of_clip(node: fx.Node) -> nn.Module | None:
    """clamp(x, 0) is a ReLU and clamp(x, 0, 6) a ReLU6."""
    given = dict(zip(("low", "high"), node.args[1:3], strict=False))
    low = given.get("low", node.kwargs.get("min", node.kwargs.get("min_val")))
    high = given.get("high", node.kwargs.get("max", node.kwargs.get("max_val")))
    if low != 0 or isinstance(low, fx.Node):
        return None
    return nn.ReLU() if high is None else nn.ReLU6() if high == 6 else None
