"""A collapsing network as plain values: what was removed, what is to be merged, all weights; and the torch module made of them anew.

Made anew from the dense network each time, so that a merge that grew from one round to the next is padded once, and a run that was killed
comes back to the very same module.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from sdk.prepare.tlc.nn.score import Removal

if TYPE_CHECKING:
    from sdk.prepare.tlc.nn.segments import Segment
    from sdk.prepare.tlc.nn.trace import Site


@dataclass(frozen=True)
class Dense:
    """What never changes: the canonical dense network, its sites by name, its segments by key."""

    module: fx.GraphModule
    sites: Mapping[str, Site] = field(repr=False)
    segments: Mapping[str, Segment] = field(repr=False)


@dataclass(frozen=True)
class Network:
    """`removals` in the order they were made; `merges`: keys of the segments that become one operation; `values`: every weight and buffer."""

    removals: tuple[Removal, ...] = ()
    merges: tuple[str, ...] = ()
    values: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the activations that are gone."""
        return tuple(removal.site for removal in self.removals)

    @property
    def passing(self) -> dict[str, int]:
        """Activation that is gone -> channels that pass in its place."""
        return {removal.site: removal.passing for removal in self.removals}

    def without(self, removals: tuple[Removal, ...], merges: tuple[str, ...]) -> Network:
        """The same weights with more activations gone, or the same ones narrower, and these merges."""
        made = {removal.site: removal for removal in (*self.removals, *removals)}
        return replace(self, removals=tuple(made.values()), merges=merges)


def build(dense: Dense, network: Network) -> fx.GraphModule:
    """The trainable module: with its weights, activations replaced, layers as narrow as they were made, padded for its merges."""
    from sdk.prepare.tlc.nn.narrow import narrowed
    from sdk.prepare.tlc.nn.refit import with_bias
    from sdk.prepare.tlc.nn.repad import repad

    made = copy.deepcopy(dense.module)
    for name in set(network.values) - set(made.state_dict()):
        if name.endswith(".bias"):  # least squares gave this layer one
            made = with_bias(made, name.removesuffix(".bias"))
    for removal in network.removals:
        if removal.width:  # before the values: they have the narrow shapes
            made = narrowed(removed_from(dense, made, removal), removal.site, removal.width)
    made.load_state_dict({name: network.values.get(name, value) for name, value in made.state_dict().items()})
    for removal in network.removals:
        made = made if removal.width else removed_from(dense, made, removal)
    return repad(made, [dense.segments[key] for key in network.merges])


def removed_from(dense: Dense, module: fx.GraphModule, removal: Removal) -> fx.GraphModule:
    """A copy of a module without the activation of a removal."""
    from sdk.prepare.tlc.nn.linearise import linearise

    return linearise(module, dense.sites[removal.site], scale=torch.from_numpy(removal.scale), shift=torch.from_numpy(removal.shift))


def values_of(module: fx.GraphModule) -> dict[str, Tensor]:
    """Copies of every weight and buffer."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
