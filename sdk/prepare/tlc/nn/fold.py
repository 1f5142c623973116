"""What training needed and a device does not: dropouts dropped, stand-ins of activations and batch norms taken in by the layers beside them."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from sdk.prepare.tlc.nn.nodes import BATCH_NORMS, CONVOLUTIONS, LINEAR, ChannelAffine, is_dropout, module_of, shape_of
from sdk.prepare.tlc.nn.spans import shared_targets


def drop_dropouts(made: fx.GraphModule) -> None:
    """Take out, in place, what computes nothing in evaluation mode."""
    for node in [n for n in made.graph.nodes if is_dropout(made, n)]:
        drop(made, node)


def drop(made: fx.GraphModule, node: fx.Node) -> None:
    """Let the readers of a node read what it reads, and erase it."""
    node.replace_all_uses_with(node.all_input_nodes[0])
    made.graph.erase_node(node)


def absorb(made: fx.GraphModule) -> None:
    """Give each stand-in, in place, to the layer before it, or to all those behind it."""
    for node in list(made.graph.nodes):
        layer = module_of(made, node)
        if isinstance(layer, ChannelAffine) and (layer.trivial or _into_source(made, node, layer) or _into_readers(made, node, layer)):
            drop(made, node)


@torch.no_grad()
def _into_source(made: fx.GraphModule, node: fx.Node, stand_in: ChannelAffine) -> bool:
    source = node.all_input_nodes[0]
    layer = module_of(made, source)
    if len(source.users) != 1 or str(source.target) in shared_targets(made) or not isinstance(layer, (*LINEAR, *BATCH_NORMS)) or layer.weight is None:
        return False
    scale, shift, bias = stand_in.scale, stand_in.shift, layer.bias
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = nn.Parameter(shift.clone() if bias is None else bias.detach() * scale + shift)
    return True


@torch.no_grad()
def _into_readers(made: fx.GraphModule, node: fx.Node, stand_in: ChannelAffine) -> bool:
    """Columns of every reader; a shift only where nothing is padded, for padding puts zeros beside it."""
    readers = [module_of(made, user) for user in node.users]
    shared = shared_targets(made)
    if any(not isinstance(r, LINEAR) or str(u.target) in shared for r, u in zip(readers, node.users, strict=True)):
        return False
    shifted = bool(stand_in.shift.any())
    if any(isinstance(r, CONVOLUTIONS) and (r.groups != 1 or (shifted and r.padding != "valid" and r.padding != (0,) * len(r.kernel_size))) for r in readers):
        return False
    for reader in readers:
        assert isinstance(reader, LINEAR)
        columns = [1, -1] + [1] * (reader.weight.ndim - 2)
        added = (reader.weight * stand_in.shift.view(columns)).flatten(1).sum(1)
        reader.weight.mul_(stand_in.scale.view(columns))
        if shifted:
            reader.bias = nn.Parameter(added if reader.bias is None else reader.bias.detach() + added)
    return True


def fold(made: fx.GraphModule) -> None:
    """Batch norm, in place, into the convolution or linear layer before it."""
    shared = shared_targets(made)
    for node in list(made.graph.nodes):
        norm, source = module_of(made, node), node.all_input_nodes[0] if node.all_input_nodes else None
        if not isinstance(norm, BATCH_NORMS) or source is None or len(source.users) != 1 or {str(node.target), str(source.target)} & shared:
            continue
        layer, shape = module_of(made, source), shape_of(node) or ()
        if not isinstance(norm.running_mean, Tensor):
            continue
        if isinstance(layer, CONVOLUTIONS):
            made.set_submodule(str(source.target), fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear) and len(shape) == 2:
            made.set_submodule(str(source.target), fuse_linear_bn_eval(layer, norm))
        else:
            continue
        drop(made, node)
