"""From an exported program to steps: layers found by tracing, batch norms folded, what computes nothing left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from sdk.errors import ModelError
from sdk.planner.training.records import LayerRecord
from sdk.training.nn.fold import folded
from sdk.training.nn.program import Fold, Layer, Ref, Step, TrainableProgram, model_identity
from sdk.training.nn.reader import Reader

#: What keeps packed bits behind a layer.
ACTIVATIONS = ("relu", "relu6", "hardswish")


def lowered(program: Any, origin: Any) -> TrainableProgram:
    """The program as steps. Raises ModelError for several inputs or outputs, a net in training mode, or an output that is not [N, classes]."""
    names, values, source = _values(program)
    node = _input(program)
    shape, symbol = tuple(int(d) for d in node.meta["val"].shape[1:]), node.meta["val"].shape[0]
    reader = Reader(symbol, names, values)
    read = [step for n in program.graph.nodes if n.op == "call_function" for step in reader.steps(n)]
    read, output = _without_identities(read, _output(program))
    steps, values, folds, notes = folded(_alive(read, output), values, output)
    output = _renamed(steps, output)
    by_name = found_layers(steps, values, folds, {node.name: (None, *shape)}, source)
    if not by_name:
        raise ModelError("nothing in the model can learn: it has no convolution and no linear layer with a weight of its own; give a net that has one")
    layer_of = {name: layer.name for layer in by_name.values() for name in layer.steps}
    steps = [replace(step, layer=layer_of.get(step.name, "")) for step in steps]
    return TrainableProgram(
        steps=tuple(steps), values=values, by_name=by_name, input=node.name, input_shape=shape, input_dtype=node.meta["val"].dtype, output=output,
        classes=_classes(steps, output), batch=None if isinstance(symbol, torch.SymInt) else int(symbol), source=source, origin=origin,
        model_id=model_identity([layer.record for layer in by_name.values()], source), decisions=tuple(notes), plain=plain_parameters(steps, by_name, source),
    )  # fmt: skip


def found_layers(
    steps: Sequence[Step], values: Mapping[str, Tensor], folds: Mapping[str, Fold], shapes: Mapping[str, tuple[int | None, ...]], source: Mapping[str, Tensor]
) -> dict[str, Layer]:
    """{layer name: Layer} in forward order; several steps of one weight are one layer."""
    known = {**shapes, **{step.name: step.shape for step in steps if step.shape is not None}}
    users: dict[str, list[Step]] = {}
    for step in steps:
        for ref in step.refs:
            users.setdefault(ref, []).append(step)
    found: dict[str, Layer] = {}
    for step in steps:
        key = step.args[1].name if step.kind in ("conv2d", "linear") else ""
        if not key or key not in source or any(user.kind not in ("conv2d", "linear") for user in users[key]):
            continue
        name = key.removesuffix(".weight")
        if name in found:
            found[name] = replace(found[name], steps=(*found[name].steps, step.name))
            continue
        bias = step.args[2].name if step.args[2] is not None and step.args[2].name in source else None
        follow = users.get(step.name, [])
        activation = follow[0].kind if len(follow) == 1 and follow[0].kind in ACTIVATIONS else ""
        record = _record(name, step, values[key], known[step.args[0].name], bias is not None, activation)
        found[name] = Layer(record, key, bias, (step.name,), folds.get(key))
    return found


def plain_parameters(steps: Sequence[Step], by_name: Mapping[str, Layer], source: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """{module name: keys} of floating parameters that steps of other kinds read: norms, embeddings, transposed convolutions, shared weights.

    Batch norms stay frozen, so theirs are not among them.
    """
    ours = {key for layer in by_name.values() for key in (layer.weight, layer.bias)}
    read = dict.fromkeys(ref for step in steps if step.kind != "batch_norm" for ref in step.refs)
    found: dict[str, tuple[str, ...]] = {}
    for key in read:
        if key in source and key not in ours and source[key].is_floating_point():
            name = key.rpartition(".")[0] or key
            found[name] = (*found.get(name, ()), key)
    return found


def _record(name: str, step: Step, weight: Tensor, x: tuple[int | None, ...], has_bias: bool, activation: str) -> LayerRecord:
    inputs, outputs = tuple(int(d or 0) for d in x[1:]), tuple(int(d or 0) for d in (step.shape or ())[1:])
    shape = (*weight.shape[:2], 1, weight.shape[2]) if weight.dim() == 3 else tuple(weight.shape)
    if step.kind == "linear":
        return LayerRecord(name, "linear", inputs, outputs, tuple(shape), has_bias=has_bias, activation=activation)
    g = step.args[3]
    return LayerRecord(name, "conv2d", inputs, outputs, tuple(shape), g.stride, g.dilation, g.padding, g.groups, has_bias, activation)


def _values(program: Any) -> tuple[dict[str, str], dict[str, Tensor], dict[str, Tensor]]:
    """({placeholder: name in the model}, values by that name, those of them that are the model's state)."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    state = {name: value.detach() for name, value in program.state_dict.items()}
    constants = {name: value.detach() for name, value in program.constants.items() if isinstance(value, Tensor)}
    everything = {**constants, **state}
    return names, {name: everything[name] for name in names.values()}, state


def _input(program: Any) -> fx.Node:
    users = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    nodes: list[fx.Node] = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users and isinstance(n.meta.get("val"), Tensor)]
    if len(users) != 1 or len(nodes) != 1 or not len(nodes[0].meta["val"].shape):
        raise ModelError(f"training takes nets of one input batch and the model has {len(users)} inputs; wrap the net so that it takes one tensor")
    if any(isinstance(d, torch.SymInt) for d in nodes[0].meta["val"].shape[1:]):
        raise ModelError(f"only the batch may be free and the input is {list(nodes[0].meta['val'].shape)}; export with fixed sizes behind the batch")
    return nodes[0]


def _output(program: Any) -> str:
    outputs = [name for name in program.graph_signature.user_outputs if isinstance(name, str)]
    if len(outputs) != 1:
        raise ModelError(f"training needs one output, the logits, and the model has {len(outputs)}; wrap the net so that it gives one tensor")
    return outputs[0]


def _classes(steps: Sequence[Step], output: str) -> int:
    shape = next((step.shape for step in steps if step.name == output), None)
    if shape is None or len(shape) != 2 or shape[0] is not None:
        shown = list(shape or ())
        raise ModelError(f"training needs logits [samples, classes] and the model's output is {shown}; wrap the net so that it gives those")
    return int(shape[1] or 0)


def _without_identities(steps: Sequence[Step], output: str) -> tuple[list[Step], str]:
    same: dict[str, str] = {}
    kept = []
    for step in steps:
        step = replace(step, args=_renaming(step.args, same), kwargs={k: _renaming(v, same) for k, v in step.kwargs.items()})
        if step.kind == "identity" and isinstance(step.args[0], Ref):
            same[step.name] = step.args[0].name
        else:
            kept.append(step)
    return kept, same.get(output, output)


def _renaming(arg: object, same: Mapping[str, str]) -> Any:
    if isinstance(arg, Ref):
        return Ref(same.get(arg.name, arg.name))
    if type(arg) in (tuple, list):
        return type(arg)(_renaming(a, same) for a in arg)  # type: ignore[attr-defined, call-arg]
    return arg


def _alive(steps: Sequence[Step], output: str) -> list[Step]:
    """The steps that the output depends on."""
    needed, kept = {output}, []
    for step in reversed(steps):
        if step.name in needed:
            needed.update(step.refs)
            kept.append(step)
    return kept[::-1]


def _renamed(steps: Sequence[Step], output: str) -> str:
    """A folded convolution bears the name of its batch norm, so names of values stay."""
    if not any(step.name == output for step in steps):
        raise ModelError("the model's output is its input or a constant, so nothing can learn; give a net with layers")
    return output
