"""Which passes a model goes through, in order, and why. Plain lists: read them, or make your own and `apply` it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdk.graph.ir import Graph
from sdk.passes.cancel_transposes import cancel_transposes
from sdk.passes.clean import merge_duplicates, remove_dead_nodes, remove_identities
from sdk.passes.constant_channels import remove_constant_channels
from sdk.passes.fold_batch_norm import fold_batch_norm
from sdk.passes.fold_constants import fold_constants
from sdk.passes.fold_pad import fold_pad
from sdk.passes.fuse_activation import fuse_activation
from sdk.passes.softmax_last import softmax_last

Pass = Callable[[Graph], Graph]

#: After a float model has been imported.
FLOAT: tuple[Pass, ...] = (
    fold_constants,  # first: what is known need not be looked at again
    merge_duplicates,  # importers write the same transpose for every reader
    fold_batch_norm,  # before activations are fused: the layer and its batch norm must stand side by side
    fuse_activation,
    softmax_last,  # before transposes cancel: theirs meet those of the layers around
    cancel_transposes,
    fold_batch_norm,  # channel-first models: only now does the layer stand beside its batch norm
    fold_constants,  # transposes pushed into weights
    fold_pad,
    fuse_activation,  # what transposes stood between
    remove_identities,
    remove_dead_nodes,
)

#: After a quantised model has been imported: its integers are its meaning, so only what leaves every byte as it is. A batch
#: norm would round the weights it is folded into; padding, moving and clamping do not round.
QUANTISED: tuple[Pass, ...] = (
    fold_constants,
    remove_identities,  # a requantise to the same scale stands between a layer and its activation
    merge_duplicates,
    fuse_activation,  # clamps the same bytes one node earlier
    cancel_transposes,
    fold_constants,
    fold_pad,  # the border is the zero point's byte, which is what a layer pads with
    fuse_activation,
    remove_constant_channels,  # last of those that change layers: a folded pad tells which channels see a border
    remove_identities,
    remove_dead_nodes,
)


def apply(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """`graph` after every pass, in order; the argument is left alone."""
    for one in passes:
        graph = one(graph)
    return graph


def prepare(graph: Graph) -> Graph:
    """The graph as planning and quantising want it: `QUANTISED` when any activation is a scaled integer, else `FLOAT`."""
    quantised = any(t.quant is not None and t.dtype in ("int8", "int16") for t in graph.activations())
    return apply(graph, QUANTISED if quantised else FLOAT)
