"""Two layers with nothing but a linear map between them need not be as wide there: the middle narrowed, in closed form.

Where an activation is gone but merging would cost more (two 3x3 convolutions make a 5x5), the pair is still one linear map, and what flows between
its halves mostly lies in few directions. z = what the first half makes, [C]; the second half reads it through W. With M = sum over taps of W'W and
S = E[z z'], the `width` leading directions of M^1/2 S M^1/2 keep most of what the second half sees, and the projection goes into the weights of
both. (Principal components of a layer's response, as in Zhang et al., "Accelerating Very Deep Convolutional Networks", TPAMI 2016; taps are taken
as independent here.) Not centred, so that zero padding stays zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sdk.errors import DataError, UsageError
from sdk.prepare.tlc.nn.canonical import reshape
from sdk.prepare.tlc.nn.fold import drop
from sdk.prepare.tlc.nn.nodes import BATCH_NORMS, LINEAR, ChannelAffine, is_dropout, module_of
from sdk.prepare.tlc.nn.refit import Batch, stop_at
from sdk.prepare.tlc.nn.spans import norm_scale, shared_targets

Dense = nn.Conv1d | nn.Conv2d | nn.Linear


@dataclass(frozen=True, eq=False)
class _Pair:
    """source -> norm -> stand-in -> reader; node of the norm, where there is one."""

    source: str
    norm: fx.Node | None
    stand_in: str
    reader: str


@torch.no_grad()
def narrow(module: fx.GraphModule, site: str, width: int, batches: Iterable[Batch]) -> fx.GraphModule:
    """A copy in which `width` channels flow where the activation `site` was removed; `refit` of the layer behind comes next.

    batches: inputs of the network [N, ...], for what flows there. The batch norm between becomes part of the layer before it.
    Raises UsageError where the pair is not two dense layers that read one another alone, DataError for no batches.
    """
    made, pair = _prepared(module, site, width)
    first, second, stand_in = _layer(made, pair.source), _layer(made, pair.reader), made.get_submodule(site)
    into, out = _projection(_moments(made, stand_in, batches), second.weight.detach().double(), width)
    scale, shift = _between(made, pair)
    bias = torch.zeros_like(shift) if first.bias is None else first.bias.detach().double()
    rows = into @ (first.weight.detach().double().flatten(1) * scale[:, None])
    columns = second.weight.detach().double().flatten(2) if second.weight.ndim > 2 else second.weight.detach().double()[:, :, None]
    _write(made, pair, rows, into @ (bias * scale + shift), torch.einsum("omk,mr->ork", columns, out))
    return made


@torch.no_grad()
def narrowed(module: fx.GraphModule, site: str, width: int) -> fx.GraphModule:
    """A copy shaped as `narrow` makes it, with the first `width` channels' weights: to load a state dict into."""
    made, pair = _prepared(module, site, width)
    first, second = _layer(made, pair.source), _layer(made, pair.reader)
    columns = second.weight.detach().double()[:, :width]
    bias = first.weight.new_zeros(width).double() if first.bias is None else first.bias.detach().double()[:width]
    _write(made, pair, first.weight.detach().double()[:width].flatten(1), bias, columns)
    return made


@torch.no_grad()
def kept_energy(module: fx.GraphModule, site: str, batches: Iterable[Batch]) -> Tensor:
    """[C], rising to 1: the share of what the layer behind sees that a middle of 1, 2, ... channels keeps."""
    made, pair = _prepared(module, site, 1)
    moments = _moments(made, made.get_submodule(site), batches)
    root = _root(_metric(_layer(made, pair.reader).weight.detach().double()))
    energies = torch.linalg.eigvalsh(root @ moments @ root).flip(0).clamp_min(0)
    return energies.cumsum(0) / energies.sum().clamp_min(torch.finfo(torch.float64).tiny)


def _prepared(module: fx.GraphModule, site: str, width: int) -> tuple[fx.GraphModule, _Pair]:
    made = copy.deepcopy(module)
    nodes = [n for n in made.graph.nodes if n.op == "call_module" and n.target == site]
    if not nodes or not isinstance(module_of(made, nodes[0]), ChannelAffine):
        raise UsageError(f"cannot narrow {site!r}: no activation of that name was removed from this network; remove it with `linearise` first")
    pair = _pair(made, nodes[0])
    channels = len(_layer(made, pair.source).weight)
    if not 1 <= width <= channels:
        raise UsageError(f"cannot narrow {site} to {width} channels: give 1 to {channels}")
    return made, pair


def _pair(made: fx.GraphModule, node: fx.Node) -> _Pair:
    """The two dense layers around a stand-in that nobody else reads between."""
    shared = shared_targets(made)
    source, norm = node.all_input_nodes[0], None
    if isinstance(module_of(made, source), BATCH_NORMS) and len(source.users) == 1 and str(source.target) not in shared:
        norm, source = source, source.all_input_nodes[0]
    reader = node
    while len(reader.users) == 1 and (reader is node or is_dropout(made, reader)):
        reader = next(iter(reader.users))
    for other in (source, reader):
        layer = module_of(made, other)
        if not isinstance(layer, LINEAR) or getattr(layer, "groups", 1) != 1 or str(other.target) in shared:
            raise UsageError(f"cannot narrow {node.target}: {_named(other)} beside it is no dense layer of its own; narrow between two such layers")
    if len(source.users) != 1:
        raise UsageError(f"cannot narrow {node.target}: {_named(source)} is read elsewhere too; narrow where two layers read one another alone")
    return _Pair(str(source.target), norm, str(node.target), str(reader.target))


def _named(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _layer(made: fx.GraphModule, name: str) -> Dense:
    layer = made.get_submodule(name)
    assert isinstance(layer, LINEAR), "found as a linear op"
    return layer


def _moments(made: fx.GraphModule, stand_in: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """E[z z'], [C, C] float64, of what the stand-in gives."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        z = stop_at(made, stand_in, batch)[1]
        rows = z.movedim(int(stand_in.dim), -1).flatten(0, -2).double()  # type: ignore[arg-type]
        total, count = total + rows.T @ rows, count + len(rows)
    if not count:
        raise DataError("narrowing a layer needs at least one batch of inputs; none was given")
    if not bool(torch.isfinite(total).all()):
        raise DataError("narrowing met values that are not finite; look for NaN or infinity in the data or the weights")
    return total / count


def _metric(weight: Tensor) -> Tensor:
    """[C, C] of a weight [O, C, ...]: what a direction of its input counts in its output; a little of every direction, so that it can be inverted."""
    taps = weight.transpose(0, 1).flatten(1)  # [C, O * taps]
    across = taps @ taps.T if weight.ndim == 2 else torch.einsum("omk,onk->mn", weight.flatten(2), weight.flatten(2))
    return across + 1e-9 * across.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny) * torch.eye(len(across), dtype=torch.float64)


def _root(metric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(metric)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _projection(moments: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(into [width, C], out of [C, width]) the leading directions."""
    root = _root(_metric(weight))
    leading = torch.linalg.eigh(root @ moments @ root).eigenvectors[:, -width:].flip(1)
    return leading.T @ root, torch.linalg.solve(root, leading)


def _between(made: fx.GraphModule, pair: _Pair) -> tuple[Tensor, Tensor]:
    """(scale [C], shift [C]) of norm and stand-in together."""
    stand_in = made.get_submodule(pair.stand_in)
    assert isinstance(stand_in, ChannelAffine), "looked for as one"
    scale, shift = stand_in.scale.double(), stand_in.shift.double()
    if pair.norm is None:
        return scale, shift
    factor, offset = norm_scale(made.get_submodule(str(pair.norm.target)))
    return factor * scale, offset * scale + shift


def _write(made: fx.GraphModule, pair: _Pair, rows: Tensor, bias: Tensor, columns: Tensor) -> None:
    """rows [width, ...], bias [width], columns [O, width, ...]; the norm goes, the stand-in becomes the identity."""
    first, second, width = _layer(made, pair.source), _layer(made, pair.reader), len(rows)
    like = first.weight
    first.weight = nn.Parameter(rows.view(width, *like.shape[1:]).to(like))
    first.bias = nn.Parameter(bias.to(like))
    second.weight = nn.Parameter(columns.reshape(len(second.weight), width, *second.weight.shape[2:]).contiguous().to(like))
    _resize(first, "out", width)
    _resize(second, "in", width)
    old = made.get_submodule(pair.stand_in)
    made.set_submodule(pair.stand_in, ChannelAffine(torch.ones(width).to(like), torch.zeros(width).to(like), int(old.dim)).train(old.training))  # type: ignore[arg-type]
    if pair.norm is not None:
        drop(made, pair.norm)
        made.delete_all_unused_submodules()
    made.graph.lint()
    made.recompile()
    reshape(made)


def _resize(layer: Dense, side: str, width: int) -> None:
    setattr(layer, f"{side}_{'features' if isinstance(layer, nn.Linear) else 'channels'}", width)
