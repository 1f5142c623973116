"""Single steps of `cancel_transposes`: what a transpose may do with its neighbours."""

from __future__ import annotations

import math

from sdk.graph.editor import Editor
from sdk.graph.ir import Node
from sdk.passes.permutations import Perm, apply, compose, inverse, is_free, through_reshape, through_reshape_up


def _perm(node: Node) -> Perm:
    return tuple(node.attrs["perm"])


def _turned(editor: Editor, name: str) -> Node | None:
    """The transpose that writes `name`, if it is one and keeps the scale."""
    node = editor.producer(name) if name else None
    return node if node is not None and node.op == "transpose" else None


def _replace(editor: Editor, node: Node, new: str) -> bool:
    editor.redirect(node.outputs[0], new)
    editor.drop(node)
    return True


def compose_two(editor: Editor, node: Node) -> bool:
    """transpose(transpose(x)) is one transpose, or none."""
    before = _turned(editor, node.inputs[0]) if node.op == "transpose" else None
    if before is None:
        return False
    editor.change(node, inputs=before.inputs, attrs={"perm": compose(_perm(before), _perm(node))})
    return True


def drop_identity(editor: Editor, node: Node) -> bool:
    """A transpose that changes nothing goes, unless the model returns what the model was given."""
    if node.op != "transpose" or _perm(node) != tuple(range(len(_perm(node)))):
        return False
    if editor.is_output(node.outputs[0]) and (editor.producer(node.inputs[0]) is None or editor.is_output(node.inputs[0])):
        return False
    return _replace(editor, node, node.inputs[0])


def share(editor: Editor, node: Node) -> bool:
    """Two readers that turn a tensor the same way share one transpose."""
    if node.op != "transpose":
        return False
    for other in editor.readers(node.inputs[0]):
        if other.op == "transpose" and other.name != node.name and _perm(other) == _perm(node) and not editor.is_output(node.outputs[0]):
            return _replace(editor, node, other.outputs[0])
    return False


def below_reshape(editor: Editor, node: Node) -> bool:
    """reshape(transpose(x)) -> transpose(reshape(x)) where every group of joined or split dimensions stays together."""
    before = _turned(editor, node.inputs[0]) if node.op == "reshape" else None
    if before is None or editor.only_reader(before.outputs[0]) is not node or node.name == before.name:
        return False
    moved = through_reshape(editor[before.outputs[0]].shape, editor[node.outputs[0]].shape, _perm(before))
    if moved is None:
        return False
    shape, perm = moved
    quant = editor[node.outputs[0]].quant
    flat = editor.emit("reshape", before.inputs, {"shape": shape}, node, quant=quant)
    return _replace(editor, node, editor.emit("transpose", (flat,), {"perm": perm}, before, quant=quant))


def above_reshape(editor: Editor, node: Node) -> bool:
    """transpose(reshape(transpose(x))): the outer one moves up and joins the inner one."""
    shaped = editor.producer(node.inputs[0]) if node.op == "transpose" else None
    if shaped is None or shaped.op != "reshape" or editor.only_reader(shaped.outputs[0]) is not node:
        return False
    before = _turned(editor, shaped.inputs[0])
    if before is None or editor.only_reader(before.outputs[0]) is not shaped:
        return False
    moved = through_reshape_up(editor[shaped.inputs[0]].shape, editor[shaped.outputs[0]].shape, _perm(node))
    if moved is None:
        return False
    quant = editor[node.outputs[0]].quant
    turned = editor.emit("transpose", before.inputs, {"perm": compose(_perm(before), moved[0])}, node, quant=quant)
    return _replace(editor, node, editor.emit("reshape", (turned,), {"shape": moved[1]}, shaped, quant=quant))


def into_dense(editor: Editor, node: Node) -> bool:
    """dense(flatten(transpose(x))): the weight's columns are put in the order of x, once."""
    if node.op != "dense" or (flat := editor.producer(node.inputs[0])) is None or flat.op != "reshape":
        return False
    before = _turned(editor, flat.inputs[0])
    weight = editor[node.inputs[1]]
    if before is None or not weight.is_const or weight.data is None or editor.only_reader(flat.outputs[0]) is not node:
        return False
    perm, shape, flat_shape = _perm(before), editor[before.outputs[0]].shape, editor[flat.outputs[0]].shape
    keep = _kept_dims(shape, flat_shape)
    if keep is None or perm[:keep] != tuple(range(keep)) or (weight.quant is not None and weight.quant.axis not in (None, 0)):
        return False
    back = tuple(p - keep for p in inverse(perm)[keep:])
    columns = weight.data.reshape(weight.shape[0], *shape[keep:]).transpose(0, *(1 + b for b in back)).reshape(weight.shape)
    name = editor.const(f"{weight.name}.turned", columns, weight.origin, weight.quant)
    x = editor.emit("reshape", before.inputs, {"shape": flat_shape}, flat, quant=editor[flat.outputs[0]].quant)
    editor.change(node, inputs=(x, name, *node.inputs[2:]))
    return True


def _kept_dims(shape: tuple[int, ...], flat: tuple[int, ...]) -> int | None:
    """How many leading dimensions a flatten keeps, when it joins all others: (1, 4, 4, 8) -> (1, 128) keeps 1."""
    keep = len(flat) - 1
    return keep if len(shape) > keep and shape[:keep] == flat[:keep] and math.prod(shape[keep:]) == flat[-1] else None


def into_reduction(editor: Editor, node: Node) -> bool:
    """A reduction that removes its axes reads the untransposed values, if the axes that stay keep their order."""
    if node.op not in ("mean", "sum", "reduce_max", "argmax") or node.attrs.get("keep_dims", False):
        return False
    before = _turned(editor, node.inputs[0])
    if before is None:
        return False
    perm, shape = _perm(before), editor[before.inputs[0]].shape
    old = (node.attrs["axis"],) if node.op == "argmax" else node.attrs.get("axes") or tuple(range(len(perm)))
    axes = {a % len(perm) for a in old}
    staying = [perm[i] for i in range(len(perm)) if i not in axes and shape[perm[i]] != 1]
    if staying != sorted(staying):
        return False
    new = tuple(sorted(perm[a] for a in axes))
    out = editor[node.outputs[0]]
    attrs = {**node.attrs, **({"axis": new[0]} if node.op == "argmax" else {"axes": new})}
    y = editor.emit(node.op, before.inputs, attrs, node, quant=out.quant, dtype=out.dtype)
    if editor[y].shape != out.shape:  # dimensions of size 1 changed places
        y = editor.emit("reshape", (y,), {"shape": out.shape}, node, quant=out.quant)
    return _replace(editor, node, y)


def into_matmul(editor: Editor, node: Node) -> bool:
    """batch_matmul can read its operands with the last two dimensions swapped."""
    if node.op != "batch_matmul":
        return False
    for index, flag in ((0, "transpose_a"), (1, "transpose_b")):
        before = _turned(editor, node.inputs[index])
        if before is not None:
            perm = _perm(before)
            rank = len(perm)
            if perm == (*range(rank - 2), rank - 1, rank - 2):
                inputs = tuple(before.inputs[0] if i == index else n for i, n in enumerate(node.inputs))
                editor.change(node, inputs=inputs, attrs={**node.attrs, flag: not node.attrs.get(flag, False)})
                return True
    return False


def into_constant(editor: Editor, node: Node) -> bool:
    """A transposed constant is a constant."""
    tensor = editor[node.inputs[0]] if node.op == "transpose" else None
    if tensor is None or tensor.data is None or not tensor.is_const:
        return False
    if editor.is_output(node.outputs[0]) or (tensor.quant is not None and tensor.quant.axis is not None):
        return False
    return _replace(editor, node, editor.const(f"{tensor.name}.turned", tensor.data.transpose(_perm(node)), tensor.origin, tensor.quant))


def as_reshape(editor: Editor, node: Node) -> bool:
    """A transpose that only moves dimensions of size 1 is a reshape, which costs nothing."""
    if node.op != "transpose" or not is_free(editor[node.inputs[0]].shape, _perm(node)):
        return False
    editor.change(node, op="reshape", attrs={"shape": apply(_perm(node), editor[node.inputs[0]].shape)})
    return True


def join_reshapes(editor: Editor, node: Node) -> bool:
    """reshape(reshape(x)) is one reshape; to the same shape, none."""
    if node.op != "reshape":
        return False
    before = editor.producer(node.inputs[0])
    if before is not None and before.op == "reshape":
        editor.change(node, inputs=before.inputs)
        return True
    same = editor[node.inputs[0]].shape == editor[node.outputs[0]].shape and editor[node.inputs[0]].quant == editor[node.outputs[0]].quant
    if not same or (editor.is_output(node.outputs[0]) and (before is None or editor.is_output(node.inputs[0]))):
        return False
    return _replace(editor, node, node.inputs[0])


RULES = (compose_two, drop_identity, share, into_constant, into_dense, into_reduction, into_matmul, above_reshape, below_reshape, join_reshapes)
