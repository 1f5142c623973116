"""Transposes out of the graph.

Channel-first models arrive with a transpose before and after every layer. Between two layers lies a region of nodes that
do not care in which order the dimensions stand (activations, additions, joins...). For each such region this pass counts
the bytes its border transposes copy, as it is and in every order its borders suggest, and rewrites it in the cheapest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node, Quant
from sdk.passes import transpose_rules
from sdk.passes.permutations import Perm, apply, compose, cost, inverse

#: Ops that compute each value from the values at the same place.
ELEMENTWISE = frozenset({
    "add", "sub", "mul", "div", "maximum", "minimum", "squared_difference", "relu", "relu6", "relu_n1_to_1", "leaky_relu", "prelu", "elu", "hard_swish",
    "hard_sigmoid", "sigmoid", "tanh", "silu", "gelu", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "clip", "cast", "quantize", "dequantize", "requantize",
})  # fmt: skip
#: Attributes that name one dimension, several dimensions, or hold one value per dimension.
ONE_AXIS = {"softmax": "axis", "log_softmax": "axis", "concat": "axis", "gather": "axis"}
AXES = {"mean": "axes", "sum": "axes", "reduce_max": "axes"}
PER_DIM = {"pad": ("paddings",), "slice": ("begin", "end", "strides"), "tile": ("multiples",)}
LIMIT = 30  # rounds; each makes the sum of copied bytes smaller, so this is never reached


def cancel_transposes(graph: Graph) -> Graph:
    """Remove transposes by computing what lies between them in another order of dimensions: a transpose copies a whole
    tensor and computes nothing. Constants are turned once, here. What remains is what the model's meaning asks for."""
    graph = _local(graph)
    for _ in range(LIMIT):
        editor = Editor(graph)
        changed = [region for region in _regions(editor) if _turn_best(editor, region)]
        if not changed:
            return sweep(graph, transpose_rules.as_reshape, transpose_rules.join_reshapes)
        graph = _local(editor.finish())
    return graph


def _local(graph: Graph) -> Graph:
    return sweep(graph, *transpose_rules.RULES)


@dataclass(frozen=True)
class Region:
    """Connected nodes that work in any order of dimensions, all on tensors of `rank` dimensions."""

    nodes: tuple[str, ...]
    rank: int


def _is_free_order(editor: Editor, node: Node) -> bool:
    """True when the node can be computed in any order of dimensions."""
    if len(node.outputs) != 1 or not node.inputs[0]:
        return False
    rank, x = len(editor[node.outputs[0]].shape), editor[node.inputs[0]]
    if rank < 2:
        return False
    if node.op in ELEMENTWISE:
        return True
    if node.op in ("softmax", "log_softmax"):
        return x.dtype == "float32"  # quantised, they work along the last axis only
    if node.op in AXES:
        return bool(node.attrs.get("keep_dims", False)) and node.attrs.get("axes") is not None
    if node.op == "gather":
        return editor.data(node.inputs[1]) is not None and len(editor[node.inputs[1]].shape) == 1
    return node.op in PER_DIM or node.op == "concat"


def _moving_inputs(node: Node) -> list[str]:
    """Inputs whose dimensions turn with the node (indices do not)."""
    return [n for n in (node.inputs[:1] if node.op == "gather" else node.inputs) if n]


def _regions(editor: Editor) -> list[Region]:
    """Connected components over tensors that one free node writes and another reads."""
    free = {n.name: n for n in editor.nodes.values() if _is_free_order(editor, n)}
    parent = {name: name for name in free}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in free.values():
        rank = len(editor[node.outputs[0]].shape)
        for name in _moving_inputs(node):
            made_by = editor.producers.get(name)
            if made_by in free and len(editor[name].shape) == rank:
                parent[root(made_by)] = root(node.name)
    members: dict[str, list[str]] = {}
    for name in free:
        members.setdefault(root(name), []).append(name)
    return [Region(tuple(m), len(editor[free[m[0]].outputs[0]].shape)) for m in members.values()]


def _border(editor: Editor, region: Region) -> tuple[list[str], list[str]]:
    """`(entering, leaving)`: tensors that region nodes read from outside, and that are read outside."""
    inside = set(region.nodes)
    written = {o for n in region.nodes for o in editor.nodes[n].outputs}
    entering = dict.fromkeys(i for n in region.nodes for i in _moving_inputs(editor.nodes[n]) if i not in written)
    leaving = [o for o in dict.fromkeys(o for n in region.nodes for o in editor.nodes[n].outputs)
               if editor.is_output(o) or any(r.name not in inside for r in editor.readers(o))]  # fmt: skip
    return list(entering), leaving


def _transpose_before(editor: Editor, name: str) -> Node | None:
    node = editor.producer(name)
    return node if node is not None and node.op == "transpose" else None


def _outside_readers(editor: Editor, region: Region, name: str) -> list[Node]:
    return [r for r in editor.readers(name) if r.name not in region.nodes]


def _bytes(editor: Editor, region: Region, border: tuple[list[str], list[str]], perm: Perm) -> int:
    """Bytes copied at the border when the region's values are held in the order `perm`."""
    total = 0
    for name in border[0]:
        if editor.data(name) is not None or editor[name].size == 1:
            continue
        before = _transpose_before(editor, name)
        source = editor[before.inputs[0]] if before else editor[name]
        total += cost(source, compose(_perm(before), _fit(perm, source.shape)) if before else _fit(perm, source.shape))
    back = inverse(perm)
    for name in border[1]:
        held = replace(editor[name], shape=apply(perm, editor[name].shape), data=None, quant=None)
        readers = _outside_readers(editor, region, name)
        turned = {_perm(r) for r in readers if r.op == "transpose"}
        total += sum(cost(held, compose(back, p)) for p in turned)
        if editor.is_output(name) or any(r.op != "transpose" for r in readers):
            total += cost(held, back)
    return total


def _perm(node: Node | None) -> Perm:
    return tuple(node.attrs["perm"]) if node is not None else ()


def _fit(perm: Perm, shape: tuple[int, ...]) -> Perm:
    """`perm` for a tensor with fewer dimensions, which broadcasting lines up at the end; its cost is only estimated."""
    missing = len(perm) - len(shape)
    return tuple(p - missing for p in perm if p >= missing)


def _turn_best(editor: Editor, region: Region) -> bool:
    """Rewrite the region in its cheapest order; False when it stands in it already."""
    if any(n not in editor.nodes for n in region.nodes):
        return False
    border = _border(editor, region)
    suggestions: dict[Perm, None] = {}
    for name in border[0]:
        before = _transpose_before(editor, name)
        if before is not None and len(editor[name].shape) == region.rank:
            suggestions[inverse(_perm(before))] = None
    for name in border[1]:
        suggestions.update({_perm(r): None for r in _outside_readers(editor, region, name) if r.op == "transpose"})
    identity = tuple(range(region.rank))
    now = _bytes(editor, region, border, identity)
    costs = {p: _bytes(editor, region, border, p) for p in suggestions if len(p) == region.rank and p != identity and _keeps_softmax(editor, region, p)}
    best = min(costs, key=lambda p: costs[p], default=identity)
    if best == identity or costs[best] >= now:
        return False
    _turn(editor, region, border, best)
    return True


def _keeps_softmax(editor: Editor, region: Region, perm: Perm) -> bool:
    """False for an order that takes a softmax off the last dimension, where alone it can be computed."""
    last = region.rank - 1
    nodes = (editor.nodes[n] for n in region.nodes)
    return perm[last] == last or not any(n.op in ("softmax", "log_softmax") and n.attrs.get("axis", -1) in (-1, last) for n in nodes)


# ---- rewriting a region ----------------------------------------------------------------------------------------------


def _turn(editor: Editor, region: Region, border: tuple[list[str], list[str]], perm: Perm) -> None:
    """The region's nodes keep their names and outputs; the outputs have another shape from now on."""
    outside = {name: _outside_readers(editor, region, name) for name in border[1]}
    held = {name: _enter(editor, name, perm) for name in border[0]}
    for name in _in_order(editor, region):
        _turn_node(editor, editor.nodes[name], held, perm)
    back = inverse(perm)
    for name, readers in outside.items():
        for reader in readers:
            if reader.op == "transpose":
                editor.change(reader, attrs={"perm": compose(back, _perm(reader))})
        others = [r for r in readers if r.op != "transpose"]
        if others or editor.is_output(name):
            like = editor.nodes[editor.producers[name]]
            out = editor.emit("transpose", (name,), {"perm": back}, like, quant=editor[name].quant, stem=f"{like.name}.back")
            for reader in others:
                editor.change(reader, inputs=tuple(out if i == name else i for i in editor.nodes[reader.name].inputs))
            editor.outputs = [out if o == name else o for o in editor.outputs]


def _in_order(editor: Editor, region: Region) -> Iterable[str]:
    """The region's nodes so that each stands behind those it reads."""
    inside, done, order = set(region.nodes), set(), []
    for start in region.nodes:
        stack = [start]
        while stack:
            name = stack[-1]
            waiting = [p for i in editor.nodes[name].inputs if (p := editor.producers.get(i)) in inside and p not in done]
            if waiting and name not in done:
                stack.extend(waiting)  # type: ignore[arg-type]
                continue
            stack.pop()
            if name not in done:
                done.add(name)
                order.append(name)
    return order


def _enter(editor: Editor, name: str, perm: Perm) -> str:
    """A tensor from outside in the order `perm`: constants are turned here, transposes before it are joined with."""
    tensor, rank = editor[name], len(perm)
    missing = rank - len(tensor.shape)
    if tensor.size == 1 and tensor.is_const:
        return name
    if tensor.data is not None and tensor.is_const:
        data = tensor.data.reshape((1,) * missing + tensor.shape).transpose(perm)
        return editor.const(f"{name}.turned", data, tensor.origin, _turn_quant(tensor.quant, missing, perm))
    like = editor.producer(name) or Node(name, "input", (), ())
    if missing:
        wide = editor.emit("reshape", (name,), {"shape": (1,) * missing + tensor.shape}, like, quant=tensor.quant)
        return editor.emit("transpose", (wide,), {"perm": perm}, like, quant=tensor.quant, stem=f"{like.name}.turn")
    before = _transpose_before(editor, name)
    source, perm = (before.inputs[0], compose(_perm(before), perm)) if before else (name, perm)
    if perm == tuple(range(rank)):
        return source
    return editor.emit("transpose", (source,), {"perm": perm}, like, quant=tensor.quant, stem=f"{like.name}.turn")


def _turn_quant(quant: Quant | None, missing: int, perm: Perm) -> Quant | None:
    return quant if quant is None or quant.axis is None else replace(quant, axis=inverse(perm)[quant.axis + missing])


def _turn_node(editor: Editor, node: Node, held: dict[str, str], perm: Perm) -> None:
    """The same node in the order `perm`."""
    place, rank, attrs = inverse(perm), len(perm), dict(node.attrs)
    if node.op in ONE_AXIS:
        attrs["axis"] = place[attrs.get("axis", -1) % rank]
    elif node.op in AXES:
        attrs["axes"] = tuple(sorted(place[a % rank] for a in attrs["axes"]))
    for key in PER_DIM.get(node.op, ()):
        if attrs.get(key) is not None:
            attrs[key] = apply(perm, attrs[key])
    out = editor[node.outputs[0]]
    moving = _moving_inputs(node)
    editor.change(node, inputs=tuple(held.get(n, n) if n in moving else n for n in node.inputs), attrs=attrs)
    editor.tensors[out.name] = replace(out, shape=apply(perm, out.shape))
