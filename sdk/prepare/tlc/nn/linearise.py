"""An activation removed: channels that it mostly passed keep their values, those that it mostly blocked become zero (TLC, arXiv 2412.15077)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from sdk.errors import UsageError
from sdk.prepare.tlc.nn.nodes import BATCH_NORMS, ChannelAffine
from sdk.prepare.tlc.nn.trace import Site, sites


def linearise(
    module: fx.GraphModule, site: Site | str, on: Tensor | None = None, *, scale: Tensor | None = None, shift: Tensor | None = None
) -> fx.GraphModule:  # fmt: skip
    """A copy of a canonical network without the activation of `site`.

    on: bool [C], the channels that become the identity; the others become zero, and so do their rows in the linear op and their batch norm where
    nobody else reads them. None: all of them. scale, shift: [C], the general form y = scale * x + shift; OFF channels have scale 0.
    The published code scores candidates on the live network, so that masks pile up; here the argument stays as it is.
    Raises UsageError for a site that is not there (any more) or a tensor of the wrong length.
    """
    known = site if isinstance(site, Site) else _find(module, site)
    layer = _layer(module, known.name)
    if isinstance(layer, ChannelAffine):
        raise UsageError(f"the activation {known.name} is removed already; choose one that `sites` lists")
    made = copy.deepcopy(module)
    like = _parameter(module)
    mask = torch.ones_like(like, dtype=torch.bool).expand(known.channels) if on is None else on.detach().to(like.device).bool()
    factor = mask.to(like) if scale is None else scale.detach().to(like) * mask
    offset = torch.zeros(known.channels).to(like) if shift is None else shift.detach().to(like)
    for name, values in (("on", mask), ("scale", factor), ("shift", offset)):
        if values.shape != (known.channels,):
            raise UsageError(f"{known.name} has {known.channels} channels and {name} has shape {list(values.shape)}; give one value a channel")
    made.set_submodule(known.name, ChannelAffine(factor, offset, known.channel_dim).train(module.training))
    if known.exclusive:
        _silence(made, known, factor != 0)
    return made


def removed(module: fx.GraphModule) -> dict[str, Tensor]:
    """{site: bool [C], its ON channels} of every activation that was removed, in order of computation."""
    layers = [(str(n.target), module.get_submodule(str(n.target))) for n in module.graph.nodes if n.op == "call_module"]
    return {name: layer.on for name, layer in layers if isinstance(layer, ChannelAffine)}


def _find(module: fx.GraphModule, name: str) -> Site:
    found = {site.name: site for site in sites(module)}
    if name in found:
        return found[name]
    if name in removed(module):
        raise UsageError(f"the activation {name} is removed already; choose one that `sites` lists")
    raise UsageError(f"the network has no activation {name!r} that can be removed; it has {', '.join(found) or 'none'}")


def _layer(module: fx.GraphModule, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"the network has no activation {name!r}; give a site of this network, made by `canonical`") from error


def _parameter(module: nn.Module) -> Tensor:
    """A number of the dtype and on the device of the network's weights."""
    weights = (p for p in module.parameters() if p.is_floating_point())
    return next(weights, torch.zeros(1)).detach().reshape(-1)[:1]


@torch.no_grad()
def _silence(made: fx.GraphModule, site: Site, on: Tensor) -> None:
    """Zero the OFF rows of the one linear op, and of its batch norm: no gradient reaches them through a scale of 0, so they stay zero.

    The norm's are zeroed too because a shift that training moves on turns a channel of zeros into a constant."""
    norm = made.get_submodule(site.norm) if site.norm else None
    if norm is not None and not isinstance(norm, BATCH_NORMS):
        return  # a norm over channels reads them all
    for layer in (made.get_submodule(site.sources[0]), norm):
        for name in ("weight", "bias"):
            values = getattr(layer, name, None)
            if isinstance(values, Tensor):
                values[~on] = 0
