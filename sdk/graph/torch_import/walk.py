"""Walk an exported program and write the graph: one handler per ATen op, constants computed on the way."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.errors import EmbarqError, ModelError
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph
from sdk.graph.pieces import MASKED

#: ATen ops that move a parameter's values without changing them: the result still is that parameter.
KEEPS_ORIGIN = frozenset({"view", "reshape", "t", "transpose", "permute", "unsqueeze", "squeeze", "detach", "alias", "contiguous", "clone", "flatten",
                          "_unsafe_view", "unflatten", "lift_fresh_copy", "detach_", "lift_fresh"})  # fmt: skip

#: ATen ops whose result is known from the shape and type of the tensor they are given.
SHAPE_ONLY = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"})


@dataclass
class Const:
    """A tensor known at import, with the parameter or buffer it comes from."""

    value: Any  # torch.Tensor
    origin: str | None = None
    trained: bool = False  # a parameter: minus infinity in it is a fault, in a buffer it is a mask


@dataclass
class Call:
    """One ATen call: its arguments by name, and what the handlers need to write nodes."""

    walk: Walk
    node: Any
    args: dict[str, Any]

    @property
    def b(self) -> Builder:
        """Where nodes are written."""
        return self.walk.builder

    def __getitem__(self, name: str) -> Any:
        """The argument `name`, tensors as values of the walk (a tensor name or a Const)."""
        return self.args.get(name)

    def has(self, name: str) -> bool:
        """True when the optional argument was given."""
        return self.args.get(name) is not None

    def tensor(self, name: str) -> str:
        """The graph's tensor for argument `name`; a constant is written out."""
        return self.walk.as_tensor(self.args[name])

    def array(self, name: str) -> np.ndarray | None:
        """The value of a constant argument, None when it was not given. Raises Unknown when it is computed at run time."""
        value = self.args.get(name)
        if value is None:
            return None
        if not isinstance(value, Const):
            raise Unknown
        return to_numpy(value)

    def origin(self, name: str) -> str | None:
        """The parameter behind argument `name`."""
        value = self.args.get(name)
        return value.origin if isinstance(value, Const) else None

    def shape(self, name: str = "self") -> tuple[int, ...]:
        """Shape of a tensor argument."""
        return self.walk.shape_of(self.args[name])

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the (first) result, from the export."""
        return tuple(int(d) for d in _first(self.node.meta["val"]).shape)

    @property
    def out_dtype(self) -> str:
        """Data type of the (first) result, from the export."""
        return dtype_name(_first(self.node.meta["val"]).dtype)


class Unknown(Exception):
    """Raised by a handler that does not know this form of its op; the node becomes opaque."""


Handler = Callable[[Call], Any]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


def dtype_name(dtype: Any) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def to_numpy(const: Const) -> np.ndarray:
    """The values as float32 or an integer type; half precision is widened, minus infinity in a mask becomes `MASKED`."""
    value = const.value.detach()
    if value.dtype.is_floating_point and dtype_name(value.dtype) != "float32":
        value = value.float()
    array = value.cpu().numpy()
    if not const.trained and array.dtype.kind == "f" and np.isneginf(array).any():
        array = np.where(np.isneginf(array), np.float32(MASKED), array)
    return array


class Walk:
    """The state of one import."""

    def __init__(self, torch: Any, program: Any, handlers: dict[str, Handler], name: str, input_layout: str | None) -> None:
        self.torch, self.program, self.handlers, self.input_layout = torch, program, handlers, input_layout
        self.builder = Builder(name)
        self.values: dict[Any, Any] = {}
        self.parameters = _parameters(program)
        self.live = _live_nodes(program.graph)

    def run(self) -> Graph:
        """Visit every node in order."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function" and node in self.live:
                self._call(node)
            elif node.op == "output":
                return self._finish(node)
            elif node.op == "get_attr":
                raise ModelError(f"the program holds a nested graph ({node.target}); write the module's forward without torch.cond or map")
        raise ModelError("the exported program has no output; export the module again")

    # ---- values ----

    def as_tensor(self, value: Any) -> str:
        """The name of a value in the graph."""
        if isinstance(value, Const):
            return self.builder.const(value.origin or f"{self.builder.scope or 'const'}.const", to_numpy(value), value.origin)
        if isinstance(value, str):
            return value
        raise Unknown

    def shape_of(self, value: Any) -> tuple[int, ...]:
        """Shape of a value of the walk."""
        return tuple(value.value.shape) if isinstance(value, Const) else self.builder.shape(value)

    def _resolve(self, arg: Any) -> Any:
        if isinstance(arg, (list, tuple)):
            return [self._resolve(a) for a in arg]
        return self.values[arg] if isinstance(arg, self.torch.fx.Node) else arg

    # ---- nodes ----

    def _placeholder(self, node: Any) -> None:
        if node.name in self.parameters:
            self.values[node] = self.parameters[node.name]
            return
        meta = node.meta.get("val")
        if not isinstance(meta, self.torch.Tensor):
            raise ModelError(f"input {node.name} is a {type(meta).__name__}, not a tensor; make it part of the module")
        shape, dtype = tuple(int(d) for d in meta.shape), dtype_name(meta.dtype)
        if dtype in ("float64", "float16", "bfloat16"):
            raise ModelError(f"input {node.name} is {dtype}; call .float() on the module and give a float32 example")
        b = self.builder
        if self.input_layout == "nhwc" and len(shape) == 4:
            last = b.input(node.name, (shape[0], *shape[2:], shape[1]), dtype)
            self.values[node] = b.op("transpose", last, perm=(0, 3, 1, 2))
        else:
            self.values[node] = b.input(node.name, shape, dtype)

    def _call(self, node: Any) -> None:
        if node.target is operator.getitem:
            self.values[node] = self.values[node.args[0]][node.args[1]]
            return
        name = op_name(node)
        call = Call(self, node, self._bind(node))
        if self._is_constant(node) or name in SHAPE_ONLY:
            self.values[node] = self._evaluate(node, name)
            return
        self.builder.scope, self.builder.source = where(node)
        handler = self.handlers.get(name)
        try:
            if handler is None:
                raise Unknown
            self.values[node] = handler(call)
        except Unknown:
            self.values[node] = self._opaque(node)
        except EmbarqError as error:
            raise type(error)(f"{error} (at {self.builder.source})") from error

    def _bind(self, node: Any) -> dict[str, Any]:
        """Arguments by the names of the op's schema, defaults filled in."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            raise ModelError(f"the program calls {node.target}, which is not an ATen op; export the module again")
        bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        bound.update({a.name: self._resolve(v) for a, v in zip(schema.arguments, node.args, strict=False)})
        bound.update({k: self._resolve(v) for k, v in node.kwargs.items()})
        return bound

    def _is_constant(self, node: Any) -> bool:
        """True when nothing the user feeds and no random number reaches the node."""
        random = self.torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        return not random and all(_known(self.values[i]) for i in node.all_input_nodes)

    def _evaluate(self, node: Any, name: str) -> Any:
        def plain(arg: Any) -> Any:
            if isinstance(arg, (list, tuple)):
                return [plain(a) for a in arg]
            if not isinstance(arg, self.torch.fx.Node):
                return arg
            value, meta = self.values[arg], arg.meta["val"]
            return value.value if isinstance(value, Const) else self.torch.empty(tuple(meta.shape), dtype=meta.dtype)  # only its shape is looked at

        args, kwargs = [plain(a) for a in node.args], {k: plain(v) for k, v in node.kwargs.items()}
        with self.torch.no_grad():
            result = node.target(*args, **kwargs)
        inputs = [self.values[i] for i in node.all_input_nodes]
        if isinstance(result, (tuple, list)):
            return [Const(r) for r in result]
        kept = inputs[0] if name in KEEPS_ORIGIN and len(inputs) == 1 and isinstance(inputs[0], Const) else Const(result)
        return Const(result, kept.origin, kept.trained)

    def _opaque(self, node: Any) -> Any:
        """A node the graph cannot name: its ATen name, its inputs, and the shapes the export found."""
        flat = [self._resolve(a) for a in node.all_input_nodes]
        inputs = [self.as_tensor(v) for f in flat for v in (f if isinstance(f, list) else [f])]
        meta = node.meta["val"]
        single = not isinstance(meta, (tuple, list))
        outputs = [(tuple(int(d) for d in m.shape), _graph_dtype(m.dtype)) for m in ([meta] if single else meta)]
        names = self.builder.opaque(str(node.target._schema.name), inputs, outputs)
        return names[0] if single else list(names)

    def _finish(self, node: Any) -> Graph:
        self.builder.scope, self.builder.source = "output", None
        wanted = set(self.program.graph_signature.user_outputs)
        results = [a for a in node.args[0] if isinstance(a, self.torch.fx.Node) and a.name in wanted]
        if not results:
            raise ModelError("the model returns no tensor; return what the device shall compute")
        names: list[str] = []
        for r in results:
            names.append(self._output(self.values[r], names))
        labels = ["output"] if len(names) == 1 else [f"output_{i}" for i in range(len(names))]
        return self.builder.graph(names, labels)

    def _output(self, value: Any, given: list[str]) -> str:
        """A tensor that a node writes: inputs, constants and what is returned twice get a reshape of their own."""
        name = self.as_tensor(value)
        if name in self.builder.inputs or isinstance(value, Const) or name in given:
            return self.builder.op("reshape", name, shape=self.builder.shape(name))
        return name


def _known(value: Any) -> bool:
    return isinstance(value, Const) or (isinstance(value, list) and all(_known(v) for v in value))


def _graph_dtype(dtype: Any) -> str:
    name = dtype_name(dtype)
    return "float32" if name in ("float16", "bfloat16", "float64") else name


def op_name(node: Any) -> str:
    """`aten::conv2d` (any overload) -> "conv2d"; ops of other namespaces keep theirs."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else str(node.target)
    return name.removeprefix("aten::")


def _parameters(program: Any) -> dict[str, Const]:
    """Placeholder name -> parameter, buffer or constant, with its name in the module. Raises ModelError for a buffer that the model changes."""
    signature = program.graph_signature
    if signature.buffers_to_mutate:
        changed = next(iter(signature.buffers_to_mutate.values()))
        raise ModelError(f"the model's forward changes its buffer {changed}, which would be lost between inferences; make it an input and an output")
    found: dict[str, Const] = {}
    kinds = ((signature.inputs_to_parameters, True), (signature.inputs_to_buffers, False), (signature.inputs_to_lifted_tensor_constants, False))
    for names, trained in kinds:
        for placeholder, target in names.items():
            value = program.state_dict.get(target)
            found[placeholder] = Const(program.constants[target] if value is None else value, target, trained)
    return found


def _live_nodes(graph: Any) -> set[Any]:
    """Nodes that reach an output."""
    live: set[Any] = set()
    for node in reversed(list(graph.nodes)):
        if node.op == "output" or node in live:
            live.update(node.all_input_nodes)
    return live


def where(node: Any) -> tuple[str, str | None]:
    """`(module path, source line)` of a node: ("features.0.conv", "net.py:31: x = self.conv(x)")."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = (stack[-1][0], str(stack[-1][1])) if stack else ("", "")
    leaf = "torch.nn.modules" in kind or "torch.ao.nn" in kind
    scope = path if leaf and path else f"{path}.{node.name}" if path else node.name
    return scope, _source_line(node.meta.get("stack_trace"))


def _source_line(trace: str | None) -> str | None:
    """The innermost line of the user's own code in a stack trace."""
    if not trace:
        return None
    frames: list[tuple[str, str]] = []
    lines = trace.splitlines()
    for i, line in enumerate(lines):
        parts = line.strip().split(", ")
        if line.strip().startswith("File ") and len(parts) >= 2:
            file, number = parts[0].removeprefix("File ").strip('"'), parts[1].removeprefix("line ")
            frames.append((f"{file}:{number}", lines[i + 1].strip() if i + 1 < len(lines) else ""))
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    return f"{own[-1][0].replace(chr(92), '/').rsplit('/', 1)[-1]}: {own[-1][1]}" if own else None
