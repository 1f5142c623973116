"""The forward pass of a training step: the prefix as it is, then the live nodes in float32, down to the logits."""

from __future__ import annotations

from sdk.graph.ir import Graph, Node
from sdk.training.mcu.draft import LAYERS, PLAIN, Draft, window
from sdk.training.mcu.split import STORAGE, Split, refuse
from sdk.training.mcu.treat import Treatment


class Forward(Draft):
    """A draft that writes the forward pass: `forward()` and nothing else from outside."""

    def forward(self) -> None:
        """The prefix as it is, then every live node in float32, down to the logits."""
        for name in self.model.inputs:
            self.tensors[name] = self.model[name]
        for node in self.cut.prefix:
            self.tensors.update({n: self.model[n] for n in (*node.inputs, *node.outputs) if n})
            self.nodes.append(node)
        fused = _fused_heads(self.cut)
        for node in self.cut.live:
            if node.name in fused:
                self.heads[fused[node.name].name] = node
            elif node.name in self.heads:
                self._head(self.heads[node.name], node)
            else:
                self._forward(node)
        self.logits = self.value[self.cut.logits]

    def _forward(self, node: Node) -> None:
        out = node.outputs[0]
        if node.op in STORAGE:
            self.value[out] = self.real(node.inputs[0], node.name)
            return
        activation = activation_of(node)
        if activation not in ("none", "relu", "relu6"):
            raise refuse(node)
        if node.op in LAYERS:
            made = self._layer(node)
        elif node.op == "add":
            made = self.emit("add", node.name, *(self.real(n, f"{node.name}.{i}") for i, n in enumerate(node.inputs)), outs=(out,), **node.attrs)[0]
        elif node.op in ("relu", "relu6"):
            made = self.emit(node.op, node.name, self.real(node.inputs[0], node.name), outs=(out,))[0]
        elif node.op == "reshape" or is_pool(node, self.model):
            made = self.emit(node.op, node.name, self.real(node.inputs[0], node.name), outs=(out,), **node.attrs)[0]
        else:
            raise refuse(node)
        self.value[out] = made
        if activation != "none":
            self.masks[node.name] = self.emit("pack_mask", f"{node.name}.mask", made, activation=activation)[0]

    def _layer(self, node: Node) -> str:
        t = self.treatments[node.name]
        x = self.real(node.inputs[0], node.name)
        z, p = self._adapter(t, node, x)
        inputs = (x, self.weight(t), self.bias(t), z, p)
        made = self.emit(LAYERS[node.op], node.name, *inputs, outs=(node.outputs[0],), activation=activation_of(node), **window(node))[0]
        self._keep(t, node, x, z)
        return made

    def _adapter(self, t: Treatment, node: Node, x: str) -> tuple[str, str]:
        """(z, P) of a layer with an adapter, ("", "") of one without."""
        return (self._projected(t, node, x), f"{t.layer.name}.adapter") if t.adapter is not None else ("", "")

    def _projected(self, t: Treatment, node: Node, x: str) -> str:
        """x U: the channels in the layer's subspace."""
        u = self.basis(t)
        if node.op == "dense":
            return self.emit("train_dense", f"{node.name}.z", x, u)[0]
        return self.emit("train_conv2d", f"{node.name}.z", x, u, **PLAIN, activation="none")[0]

    def _keep(self, t: Treatment, node: Node, x: str, z: str) -> None:
        """Remember what the update reads: the projection, the integers in front of the cut, or the float input."""
        if t.method in ("freeze", "bias"):
            return
        if t.method == "fixed":
            z = self._projected(t, node, x)
        name = node.inputs[0]
        boundary = name not in self.value and self.model[name].dtype != "float32"
        self.kept[node.name] = z or (name if boundary else x)

    def _head(self, conv: Node, mean: Node) -> None:
        """The last 1x1 convolution, its activation and the mean over the image as one op: [H, W, O] is never held."""
        t = self.treatments[conv.name]
        x = self.real(conv.inputs[0], conv.name)
        z, p = self._adapter(t, conv, x)
        pooled, mask = self.emit(
            "train_head", conv.name, x, self.weight(t), self.bias(t), z, p, outs=(f"{conv.name}.pooled", f"{conv.name}.mask.out"),
            activation=conv.attrs["activation"],
        )  # fmt: skip
        self.masks[conv.name] = mask
        self._keep(t, conv, x, z)
        shape = self.model[mean.outputs[0]].shape
        flat = self.tensors[pooled].shape
        self.value[mean.outputs[0]] = pooled if shape == flat else self.emit("reshape", mean.name, pooled, outs=(mean.outputs[0],), shape=shape)[0]

def is_global(node: Node, model: Graph) -> bool:
    """True for a mean, or a pool, over the whole image."""
    if node.op == "mean":
        return len(model[node.inputs[0]].shape) == 4 and tuple(sorted(node.attrs.get("axes") or ())) == (1, 2)
    return node.op == "avg_pool2d" and tuple(node.attrs["kernel"]) == model[node.inputs[0]].shape[1:3] and not any(map(any, node.attrs["padding"]))


def is_pool(node: Node, model: Graph) -> bool:
    """True for the averages that a gradient is known of."""
    plain = node.op == "avg_pool2d" and node.attrs.get("activation", "none") == "none" and not any(map(any, node.attrs["padding"]))
    return is_global(node, model) or plain


def _fused_heads(cut: Split) -> dict[str, Node]:
    """Convolution -> the mean that alone reads it: 1x1, with relu or relu6 between the two."""
    readers: dict[str, list[Node]] = {}
    for node in cut.live:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in cut.live:
        after = readers.get(node.outputs[0], [])
        if len(after) == 1 and is_global(after[0], cut.graph) and _is_point(node, cut.graph):
            found[node.name] = after[0]
    return found


def _is_point(node: Node, model: Graph) -> bool:
    if node.op != "conv2d" or node.attrs.get("activation") not in ("relu", "relu6"):
        return False
    one = (1, 1)
    return model[node.inputs[1]].shape[1:3] == one == tuple(node.attrs["stride"]) and not any(map(any, node.attrs["padding"]))


def activation_of(node: Node) -> str:
    """What is fused behind a node: "none", "relu", "relu6" or another."""
    return node.op if node.op in ("relu", "relu6") else str(node.attrs.get("activation", "none"))
