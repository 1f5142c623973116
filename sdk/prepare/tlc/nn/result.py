"""The end of a collapse: the plain network, proved equal to the trained one, and what the report tells of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sdk.errors import VerificationFailed
from sdk.prepare.tlc.nn.candidates import sites_behind
from sdk.prepare.tlc.nn.costs import Cost, Costs, base_of
from sdk.prepare.tlc.nn.evaluate import answers, evaluate
from sdk.prepare.tlc.nn.network import Dense, Network, build
from sdk.prepare.tlc.records import Figures, Layer

#: Merged and unmerged network may differ by this share of the largest logit.
CLOSE = 1e-4


@dataclass(frozen=True)
class Finished:
    """`module`: plain operations only. `error`: its largest difference to the trained network, as a share of the largest logit."""

    module: fx.GraphModule = field(repr=False)
    error: float = 0.0


def finished(dense: Dense, network: Network, x: Tensor) -> Finished:
    """Merge and clean up; x [N, ...]: samples on which both must agree.

    Raises VerificationFailed where they do not, naming the difference.
    """
    from sdk.prepare.tlc.nn.merge import finish

    trained = build(dense, network).eval()
    made = finish(trained, [dense.segments[key] for key in network.merges]).eval()
    wanted, got = answers(trained, x), answers(made, x)
    error = float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not error <= CLOSE:
        raise VerificationFailed(
            f"the merged network differs from the trained one by {error:.1e} of its largest output and {CLOSE:.0e} is allowed; report the model"
        )
    return Finished(made, error)


def figures(
    module: fx.GraphModule, sites: int, costs: Costs, plan: Any, held: tuple[Tensor, Tensor] | None, measured: Mapping[str, Any],
) -> Figures:  # fmt: skip
    """A network in figures. sites: activations that are left; plan: the device's; held: samples to judge by; measured: `Figures` fields."""
    shape = module.meta["example"][0][0]
    cost: Cost = costs.priced(plan, module, shape)[0]
    base = base_of(plan)
    return Figures(
        layers_in(module), sites, sum(p.numel() for p in module.parameters()), cost.macs, None if held is None else evaluate(module, *held).accuracy,
        cost.latency_s, cost.peak_bytes, sum(base.arena_bytes), **measured,
    )  # fmt: skip


def layers_in(module: nn.Module) -> int:
    """Convolutions and linear layers."""
    return sum(isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) for layer in module.modules())


def layers_of(dense: Dense, ops: Sequence[str], network: Network) -> tuple[Layer, ...]:
    """The dense network's linear operations in order, each with what became of it."""
    fates = {op: key for key in network.merges for op in dense.segments[key].ops}
    behind = sites_behind(ops, dense.sites.values())
    gone = {removal.site: removal for removal in network.removals}
    return tuple(_layer(dense, op, fates.get(op, "kept"), behind.get(i, ()), gone) for i, op in enumerate(ops))


def _layer(dense: Dense, op: str, fate: str, behind: Sequence[str], gone: Mapping[str, Any]) -> Layer:
    kind = _kind(dense.module.get_submodule(op))
    if not behind:
        return Layer(op, kind, fate)
    site = dense.sites[behind[0]]
    removal = gone.get(site.name)
    passing = site.channels if removal is None else removal.passing
    return Layer(op, kind, fate, site.name, removal is not None, passing, site.channels)


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    size = "x".join(str(k) for k in getattr(layer, "kernel_size", ()))
    grouped = getattr(layer, "groups", 1) > 1
    return f"{size} depthwise convolution" if grouped else f"{size} convolution"


def frozen(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that never learns: a teacher."""
    made = copy.deepcopy(module).eval()
    for p in made.parameters():
        p.requires_grad_(False)
    return made


def example_of(x: Tensor) -> Tensor:
    """[2, ...] samples to trace with."""
    return x[:2] if len(x) > 1 else torch.cat([x, x])
