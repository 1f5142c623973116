"""The backward pass of a training step: from the last live node to the first, gradients and updates in their place."""

from __future__ import annotations

import numpy as np

from sdk.graph.ir import Node, Quant, Tensor
from sdk.training.mcu.draft import LAYERS, PLAIN, window
from sdk.training.mcu.forward import Forward, is_global
from sdk.training.mcu.split import STORAGE
from sdk.training.mcu.treat import HYPER, Treatment


class Backward(Forward):
    """A draft that writes the way back: `loss()`, then `backward()`."""

    def loss(self, label: str, loss: str) -> None:
        """Softmax and cross-entropy: the loss, and the gradient of the logits."""
        self.tensors[label] = Tensor(label, (1,), "int32")
        made = self.emit("softmax_cross_entropy", "softmax_cross_entropy", self.logits, label, outs=(loss, "loss.grad"))
        self.grads[self.cut.logits] = made[1]

    def backward(self) -> None:
        """From the last live node to the first: mask, input gradient, updates."""
        fused = {conv.name for conv in self.heads.values()}
        for node in reversed(self.cut.live):
            if node.name in fused:
                continue
            grad = self.grads.pop(node.outputs[0])
            if node.name in self.heads:
                self._head_back(self.heads[node.name], grad)
            else:
                self._back(node, self._masked(node, grad))

    def _masked(self, node: Node, grad: str) -> str:
        mask = self.masks.get(node.name)
        return grad if mask is None else self.emit("mask_grad", f"{node.name}.unmask", grad, mask)[0]

    def _back(self, node: Node, grad: str) -> None:
        x = node.inputs[0]
        if node.op in LAYERS:
            self._layer_back(node, grad)
        elif node.op == "add":
            for name in node.inputs:
                self._give(name, grad)
        elif not self._wants(x):
            return
        elif node.op == "reshape":
            self._give(x, self.emit("reshape", f"{node.name}.grad", grad, shape=self.model[x].shape)[0])
        elif node.op in STORAGE or node.op in ("relu", "relu6"):
            self._give(x, grad)
        else:
            self._give(x, self._pool_back(node, grad))

    def _wants(self, name: str) -> bool:
        """True for a tensor behind which something learns."""
        return name in self.live_outputs

    def _give(self, name: str, grad: str) -> None:
        """Add to the gradient of the model's tensor `name`."""
        if not self._wants(name):
            return
        if name in self.grads:
            grad = self.emit("add", f"{name}.sum", self.grads[name], grad, activation="none")[0]
        self.grads[name] = grad

    def _layer_back(self, node: Node, grad: str) -> None:
        """Everything that reads dy: adapter gradients first, while P is as it was; updates next, so that what was saved is free; dx last.

        Where the weights themselves learn, dx comes before their update.
        """
        t = self.treatments[node.name]
        wants = self._wants(node.inputs[0])
        if t.adapter is None:
            if wants:
                self._input_grad(t, node, grad)
            self._update(t, node, grad)
            return
        dz = self._grad(node, f"{node.name}.dz", grad, f"{t.layer.name}.adapter", "") if wants else ""
        self._update(t, node, grad)
        if wants:
            self._input_grad(t, node, grad)
            self._through_basis(t, node, dz)

    def _input_grad(self, t: Treatment, node: Node, grad: str) -> None:
        x = node.inputs[0]
        self.grads[x] = self._grad(node, f"{node.name}.dx", grad, self.weight(t), self.grads.get(x, ""))

    def _grad(self, node: Node, stem: str, grad: str, weight: str, add: str) -> str:
        attrs = window(node)
        if node.op != "dense":
            attrs["size"] = self.model[node.inputs[0]].shape[1:3]
        return self.emit(f"{LAYERS[node.op]}_grad", stem, grad, weight, add, **attrs)[0]

    def _through_basis(self, t: Treatment, node: Node, dz: str) -> None:
        """dx += dz U^T."""
        x, stem = node.inputs[0], f"{node.name}.dxu"
        if node.op == "dense":
            self.grads[x] = self.emit("train_dense_grad", stem, dz, self.basis(t), self.grads[x])[0]
        else:
            size = self.model[x].shape[1:3]
            self.grads[x] = self.emit("train_conv2d_grad", stem, dz, self.basis(t), self.grads[x], size=size, **PLAIN)[0]

    def _update(self, t: Treatment, node: Node, grad: str) -> None:
        if not t.trains:
            return
        if node.name in self.kept:
            part = "adapter" if t.adapter is not None else "weight"
            name = f"{t.layer.name}.{part}"
            x = self._kept(node)
            basis = self.basis(t, flat=True) if t.method == "fixed" else ""
            inputs = [x, grad, name, HYPER, self._velocity(name), *([] if t.layer.is_depthwise else [basis]), self._counter(t)]
            self.emit(f"{LAYERS[node.op]}_update", f"{node.name}.update", *inputs, **window(node))
        bias = f"{t.layer.name}.bias"
        if bias in self.tensors:
            self.emit("bias_update", f"{node.name}.bias_update", grad, bias, HYPER, self._velocity(bias))

    def _kept(self, node: Node) -> str:
        """What an update reads of its layer's input, in real numbers."""
        name = self.kept[node.name]
        return name if self.tensors[name].dtype == "float32" else self.emit("dequantize", f"{node.name}.again", name)[0]

    def _velocity(self, name: str) -> str:
        return f"{name}.momentum" if self.momentum else ""

    def _counter(self, t: Treatment) -> str:
        """The counter of the noise that rounds int8 weights; each such update owns one."""
        return f"{t.layer.name}.counter" if t.int8 else ""

    def _head_back(self, conv: Node, grad: str) -> None:
        t, mask, x = self.treatments[conv.name], self.masks[conv.name], conv.inputs[0]
        size = self.model[x].shape[1:3]
        shape = (1, t.layer.channels)
        if self.tensors[grad].shape != shape:
            grad = self.emit("reshape", f"{conv.name}.grad", grad, shape=shape)[0]
        wants, adapted = self._wants(x), t.adapter is not None

        def through(stem: str, weight: str, add: str) -> str:
            return self.emit("train_head_grad", stem, grad, mask, weight, add, size=size)[0]

        dz = through(f"{conv.name}.dz", f"{t.layer.name}.adapter", "") if wants and adapted else ""
        if wants and not adapted:
            self.grads[x] = through(f"{conv.name}.dx", self.weight(t), self.grads.get(x, ""))
        self._head_update(t, conv, grad, mask, size)
        if wants and adapted:
            self.grads[x] = through(f"{conv.name}.dx", self.weight(t), self.grads.get(x, ""))
            self._through_basis(t, conv, dz)

    def _head_update(self, t: Treatment, conv: Node, grad: str, mask: str, size: tuple[int, ...]) -> None:
        if not t.trains:
            return
        if conv.name in self.kept:
            name = f"{t.layer.name}.{'adapter' if t.adapter is not None else 'weight'}"
            basis = self.basis(t, flat=True) if t.method == "fixed" else ""
            inputs = (self._kept(conv), grad, mask, name, HYPER, self._velocity(name), basis, self._counter(t))
            self.emit("train_head_update", f"{conv.name}.update", *inputs)
        bias = f"{t.layer.name}.bias"
        if bias not in self.tensors:
            return
        self.emit("head_bias_update", f"{conv.name}.bias_update", grad, mask, bias, HYPER, self._velocity(bias), size=size)

    def _pool_back(self, node: Node, grad: str) -> str:
        """A mean spreads its gradient evenly; an average pool is a depthwise convolution whose taps are all the same."""
        shape = self.model[node.inputs[0]].shape
        if node.op == "mean" or is_global(node, self.model):
            return self.emit("mean_grad", f"{node.name}.grad", grad, size=shape[1:3])[0]
        kernel = tuple(node.attrs["kernel"])
        taps = self.constant(f"{node.name}.taps", np.ones((1, *kernel, shape[3]), np.int8), Quant((1.0 / (kernel[0] * kernel[1]),), (0,)))
        attrs = {"stride": tuple(node.attrs["stride"]), "dilation": (1, 1), "padding": node.attrs["padding"], "size": shape[1:3]}
        return self.emit("train_depthwise_grad", f"{node.name}.grad", grad, taps, **attrs)[0]

