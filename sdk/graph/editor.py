"""Change a graph: an `Editor` holds nodes and tensors in dictionaries, and `finish` gives a new checked `Graph`.

The graph that was handed in is left alone. Inputs and outputs keep their names, whatever happens behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdk.errors import ModelError
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS


class Editor:
    """A graph under change. `rule(editor, node) -> bool` is what `sweep` applies to every node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {n.name: n for n in graph.nodes}
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.outputs: list[str] = list(graph.outputs)  # the tensor behind each output
        self.producers: dict[str, str] = {o: n.name for n in graph.nodes for o in n.outputs}
        self._readers: dict[str, dict[str, None]] = {}
        self._counts: dict[str, int] = {}
        for node in graph.nodes:
            self._read(node)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def _read(self, node: Node) -> None:
        for name in node.inputs:
            if name:
                self._readers.setdefault(name, {})[node.name] = None

    def _unread(self, node: Node) -> None:
        for name in node.inputs:
            if name:
                self._readers.get(name, {}).pop(node.name, None)

    # ---- looking ----

    def producer(self, name: str) -> Node | None:
        """The node that writes `name`."""
        made_by = self.producers.get(name)
        return self.nodes[made_by] if made_by else None

    def readers(self, name: str) -> list[Node]:
        """The nodes that read `name`."""
        return [self.nodes[n] for n in self._readers.get(name, {})]

    def is_output(self, name: str) -> bool:
        """True when the model returns `name`."""
        return name in self.outputs

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads `name`, when nothing else does and the model does not return it."""
        readers = self._readers.get(name, {})
        return self.nodes[next(iter(readers))] if len(readers) == 1 and not self.is_output(name) else None

    def data(self, name: str) -> np.ndarray | None:
        """The value of a constant, None for anything else."""
        tensor = self.tensors.get(name) if name else None
        return tensor.data if tensor is not None and tensor.is_const else None

    def scalar(self, name: str) -> float | None:
        """The value of a float constant with one element."""
        data = self.data(name)
        return float(data.reshape(-1)[0]) if data is not None and data.size == 1 and data.dtype.kind == "f" else None

    # ---- changing ----

    def unique(self, stem: str, taken: Mapping[str, Any]) -> str:
        """`stem`, or with the next free number behind it."""
        if stem not in taken:
            return stem
        number = self._counts.get(stem, 0)
        while f"{stem}_{(number := number + 1)}" in taken:
            pass
        self._counts[stem] = number
        return f"{stem}_{number}"

    def const(self, stem: str, value: np.ndarray, origin: str | None = None, quant: Quant | None = None) -> str:
        """A new constant."""
        name = self.unique(stem, self.tensors)
        data = np.ascontiguousarray(value).reshape(value.shape)
        self.tensors[name] = Tensor(name, data.shape, str(data.dtype), quant, data, origin)
        return name

    def emit(self, op: str, inputs: Sequence[str], attrs: Mapping[str, Any], like: Node, *, quant: Quant | None = None, dtype: str | None = None,
             stem: str | None = None) -> str:  # fmt: skip
        """A new node of one output, named after `like` (or `stem`); returns the output's name."""
        name = self.unique(stem or like.name, self.nodes)
        node = Node(name, op, tuple(inputs), (self.unique(f"{name}.out", self.tensors),), attrs, like.source)
        if dtype:  # what some ops give is what their output declares
            self.tensors[node.outputs[0]] = Tensor(node.outputs[0], (), dtype)
        (shape, inferred), *_ = OPS[op].infer(node, self.tensors)
        self.tensors[node.outputs[0]] = Tensor(node.outputs[0], shape, dtype or inferred, quant)
        self.add(node)
        return node.outputs[0]

    def add(self, node: Node) -> None:
        """Add a node whose tensors are declared already."""
        self.nodes[node.name] = node
        self.producers.update(dict.fromkeys(node.outputs, node.name))
        self._read(node)

    def change(self, node: Node, **changes: Any) -> Node:
        """Replace fields of a node; its outputs stay."""
        new = replace(self.nodes[node.name], **changes)
        self._unread(self.nodes[node.name])
        self.nodes[node.name] = new
        self._read(new)
        return new

    def redirect(self, old: str, new: str) -> None:
        """Everything that reads `old`, the model's outputs included, reads `new` from now on."""
        for node in self.readers(old):
            self.change(node, inputs=tuple(new if n == old else n for n in node.inputs))
        self.outputs = [new if o == old else o for o in self.outputs]

    def drop(self, node: Node) -> None:
        """Remove a node that nothing reads any more."""
        self._unread(node)
        del self.nodes[node.name]
        for name in node.outputs:
            self.producers.pop(name, None)

    def drop_dead(self) -> bool:
        """Remove every node whose result nobody uses: as a reader it would keep others from joining. True when there were some."""
        live = self._live()
        dead = [node for node in self.nodes.values() if node.name not in live]
        for node in dead:
            self.drop(node)
        return bool(dead)

    # ---- the end ----

    def finish(self) -> Graph:
        """The graph in executable order, without nodes whose results nobody uses."""
        self._name_outputs()
        return self.graph.with_nodes(self._ordered(), self.tensors, outputs=self.graph.outputs)

    def _name_outputs(self) -> None:
        """Give the tensors behind the outputs the outputs' names; what is no node's own result gets a reshape to itself."""
        for index, wanted in enumerate(self.graph.outputs):
            behind = self.outputs[index]
            if behind == wanted:
                continue
            if self.producers.get(behind) is None or behind in self.graph.outputs or behind in self.outputs[:index]:
                like = self.nodes.get(self.producers.get(behind, ""), Node("output", "reshape", (), ()))
                behind = self.emit("reshape", (behind,), {"shape": self[behind].shape}, like, quant=self[behind].quant, stem="output")
            if wanted in self.tensors:
                self._rename(wanted, self.unique(f"{wanted}.was", self.tensors))
            self._rename(behind, wanted)
            self.outputs[index] = wanted

    def _rename(self, old: str, new: str) -> None:
        self.tensors[new] = replace(self.tensors.pop(old), name=new)
        self.outputs = [new if o == old else o for o in self.outputs]
        made_by = self.producers.pop(old, None)
        if made_by:
            self.producers[new] = made_by
            node = self.nodes[made_by]
            self.nodes[made_by] = replace(node, outputs=tuple(new if o == old else o for o in node.outputs))
        for name in list(self._readers.get(old, {})):
            node = self.nodes[name]
            self.change(node, inputs=tuple(new if i == old else i for i in node.inputs))

    def _is_root(self, node: Node) -> bool:
        """Nodes that must run: those without outputs and those that touch state."""
        return not node.outputs or any(self.tensors[n].variable for n in (*node.inputs, *node.outputs) if n)

    def _live(self) -> set[str]:
        stack = [self.producers[o] for o in self.outputs if o in self.producers] + [n.name for n in self.nodes.values() if self._is_root(n)]
        live: set[str] = set()
        while stack:
            name = stack.pop()
            if name not in live:
                live.add(name)
                stack.extend(self.producers[i] for i in self.nodes[name].inputs if i in self.producers)
        return live

    def _ordered(self) -> list[Node]:
        """Live nodes in the old order, each new one just before its first reader."""
        live, done, order = self._live(), set(), []
        for start in self.nodes:
            stack = [start] if start in live else []
            while stack:
                name = stack[-1]
                waiting = [p for i in self.nodes[name].inputs if (p := self.producers.get(i)) and p not in done]
                if name in done or not waiting:
                    stack.pop()
                    if name not in done:
                        done.add(name)
                        order.append(self.nodes[name])
                elif len(stack) > len(self.nodes):
                    raise ModelError(f"the model's nodes depend on one another in a circle (around {name}); export it again")
                else:
                    stack.extend(reversed(waiting))
        return order


Rule = Callable[[Editor, Node], bool]


def sweep(graph: Graph, *rules: Rule, rounds: int = 50) -> Graph:
    """Apply the rules to every node, again and again until none changes anything."""
    editor, changed_once = Editor(graph), False
    for _ in range(rounds):
        changed = editor.drop_dead()
        for name in list(editor.nodes):
            for rule in rules:
                node = editor.nodes.get(name)
                if node is not None and rule(editor, node):
                    changed = True
        changed_once |= changed
        if not changed:
            break
    return editor.finish() if changed_once else graph
