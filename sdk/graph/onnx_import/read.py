"""Bytes to a checked ONNX model: versions, fixed input shapes, weights as numpy arrays.

`onnx.checker` is not used: what it refuses differs between versions, and what matters here is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import ModelError, UsageError

#: Oldest version of the standard operators that is read.
OLDEST_OPSET = 7
#: Data types of ONNX tensors -> names of the graph's; half precision is widened.
DTYPES: Mapping[int, str] = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float32", 11: "float32", 16: "float32"}
#: More values than this in one constant is a mistake in the file, not a model for such devices.
MAX_VALUES = 1 << 28


@dataclass(frozen=True)
class Input:
    """An input of the model with its fixed shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Source:
    """A model ready to be walked."""

    proto: Any
    opset: int
    inputs: tuple[Input, ...]
    weights: Mapping[str, Any]  # initialisers by name, undecoded
    folder: Path | None

    def weight(self, name: str) -> np.ndarray:
        """The values of an initialiser."""
        return decode(self.weights[name], self.folder)


def import_onnx() -> Any:
    """The onnx package; UsageError naming the extra when it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError('reading an .onnx file needs onnx, which is not installed; pip install "embarq[onnx]"') from error
    return onnx


def read(source: bytes | str | Path, example: Any, batch: int | None, folder: Path | None) -> Source:
    """Parse and check. Raises ModelError with what is wrong and the mend."""
    onnx = import_onnx()
    if isinstance(source, (str, Path)):
        folder = folder or Path(source).resolve().parent
        source = _bytes_of(Path(source))
    proto = _parse(onnx, bytes(source))
    graph = proto.graph
    opset = _opset(onnx, proto)
    if not graph.node and not graph.output:
        raise ModelError("the file holds no ONNX model; it is truncated or of another format, so export it again")
    if not graph.output:
        raise ModelError("the ONNX model has no output; export it again")
    if proto.functions:
        proto = _inlined(proto)
        graph = proto.graph
    if graph.sparse_initializer:
        raise ModelError("the ONNX model has sparse weights, which are not read; export it with dense weights")
    _check_names(graph)
    weights = {t.name: t for t in graph.initializer}
    free = [v for v in graph.input if v.name not in weights]
    examples = _examples(example, [v.name for v in free])
    inputs = tuple(_input(v, examples.get(v.name), batch) for v in free)
    return Source(proto, opset, inputs, weights, folder)


def _check_names(graph: Any) -> None:
    """Every name is printable text: protobuf hands damaged ones out as bytes, and names stand in messages and files."""
    names = [v.name for v in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)] + [graph.name]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ModelError("the ONNX model holds a name that is no printable text; the file is damaged, so export it again")


def _inlined(proto: Any) -> Any:
    """The model with its local functions written out."""
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # the inliner throws what its C++ throws
        raise ModelError("the functions inside the ONNX model cannot be written out; the file is damaged, so export it again") from error


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"cannot load {path}: there is no such file")
    return path.read_bytes()


def _parse(onnx: Any, content: bytes) -> Any:
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError("the file is not an ONNX model, or is truncated or damaged; export it again") from error
    return proto


def _opset(onnx: Any, proto: Any) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError("the ONNX model names no opset; it is truncated or damaged, so export it again")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= versions[0] <= newest:
        raise ModelError(f"the ONNX model has opset {versions[0]}; {OLDEST_OPSET} to {newest} are read, so export it with one of these (17 is a good choice)")
    return int(versions[0])


# ---- inputs ------------------------------------------------------------------------------------------------------


def _examples(example: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Example arrays by input name, from one array, a sequence of them, or a mapping."""
    if example is None:
        return {}
    if isinstance(example, Mapping):
        given = {str(k): np.asarray(v) for k, v in example.items()}
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise UsageError(f"the example names the input {unknown[0]!r}, which the model does not have; its inputs are {', '.join(names)}")
        return given
    values = list(example) if isinstance(example, (tuple, list)) else [example]
    if len(values) != len(names):
        raise UsageError(f"the example has {len(values)} arrays and the model {len(names)} inputs ({', '.join(names)}); give one each")
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _input(value: Any, example: np.ndarray | None, batch: int | None) -> Input:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input {value.name} is not a tensor; export the model with tensors only")
    dims = [_dim(d) for d in kind.shape.dim] if kind.HasField("shape") else None
    if kind.elem_type not in DTYPES:
        raise ModelError(f"input {value.name} has the ONNX data type {kind.elem_type}, which is not read; export the model with float32 inputs")
    return Input(value.name, _fixed(value.name, dims, example, batch), DTYPES[kind.elem_type])


def _dim(dim: Any) -> int | str:
    """A size, or the name of one that is not fixed ("?" when it has none)."""
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else (dim.dim_param or "?")


def _fixed(name: str, dims: list[int | str] | None, example: np.ndarray | None, batch: int | None) -> tuple[int, ...]:
    """The input's shape with every dimension a number."""
    if example is not None:
        shape = tuple(example.shape)
        if dims is not None and (len(dims) != len(shape) or any(isinstance(d, int) and d != s for d, s in zip(dims, shape, strict=True))):
            raise UsageError(f"input {name} has shape {dims} and the example {list(shape)}; give an example of the model's shape")
        return shape
    if dims is None:
        raise ModelError(f"input {name} has no shape; export the model with fixed sizes, or give an example of the shape wanted")
    if dims and isinstance(dims[0], str):
        # tf2onnx writes unk__7 where nobody ever named the batch: one sample is what a device sees
        dims[0] = batch if batch is not None else 1 if dims[0].startswith("unk__") else dims[0]
    wrong = [d for d in dims if isinstance(d, str)]
    if wrong:
        mend = "give the batch (batch=1, or --batch 1)" if wrong == dims[:1] else "export the model with fixed sizes, batch included"
        raise ModelError(f"input {name} has shape {dims}, in which {wrong[0]!r} is not fixed; {mend}, or give an example of the shape wanted")
    return tuple(int(d) for d in dims)


# ---- weights -----------------------------------------------------------------------------------------------------


def decode(tensor: Any, folder: Path | None) -> np.ndarray:
    """An ONNX tensor as a numpy array of a type the graph knows; half precision is widened to float32.

    Raises ModelError for damaged, external and absent data.
    """
    import onnx

    name = tensor.name or "a constant"
    if any(d < 0 for d in tensor.dims) or math.prod(tensor.dims) > MAX_VALUES:
        raise ModelError(f"the weights {name} have shape {list(tensor.dims)}; the file is damaged, so export it again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor = _external(tensor, name, folder)
    try:
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # a damaged tensor fails in many ways, none of them documented
        raise ModelError(f"the weights {name} cannot be decoded; the file is damaged, so export it again") from error
    if array.dtype.kind == "f" or str(array.dtype) == "bfloat16":
        return array.astype(np.float32)
    return array


def _external(tensor: Any, name: str, folder: Path | None) -> Any:
    from onnx.external_data_helper import load_external_data_for_tensor

    where = next((e.value for e in tensor.external_data if e.key == "location" and e.value.isprintable()), "?")
    if folder is None:
        raise ModelError(f"the weights {name} lie in another file, {where}; give the path of the .onnx file, with {where} beside it")
    inside = (folder / where).resolve()
    if not inside.is_relative_to(folder.resolve()) or not inside.is_file():
        raise ModelError(f"the weights {name} lie in {where}, which is not in the folder of the model; put it there, or save the model in one file")
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    try:
        load_external_data_for_tensor(copy, str(folder))
    except Exception as error:  # onnx raises ValidationError, OSError, ValueError
        raise ModelError(f"the weights {name} cannot be read from {where}; the file is damaged, so export the model again") from error
    copy.data_location = 0
    return copy
