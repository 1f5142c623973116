"""Arrays on the wire and on disk: JSON with base64, and the golden `.npy` files."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from .bundle import Bundle
from .errors import BadRequest, BundleRefused

DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")


def pack(array: np.ndarray) -> dict[str, Any]:
    """{"dtype", "shape", "data"}: little-endian values in C order, base64."""
    array = np.asarray(array, order="C")  # not ascontiguousarray, which gives a scalar one dimension
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": base64.b64encode(little.tobytes()).decode()}


def unpack(record: Any) -> np.ndarray:
    """The array of `pack`; raises `BadRequest` naming what is wrong with it."""
    if not isinstance(record, dict) or record.get("dtype") not in DTYPES:
        raise BadRequest(f"an array needs a dtype of {', '.join(DTYPES)}; give dtype, shape and data")
    shape = record.get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise BadRequest(f"an array's shape is a list of sizes, not {shape!r}; give dtype, shape and data")
    dtype = np.dtype(record["dtype"]).newbyteorder("<")
    try:
        data = base64.b64decode(str(record.get("data")), validate=True)
    except binascii.Error as error:
        raise BadRequest(f"an array's data is not base64 ({error}); encode its bytes") from error
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(data) != wanted:
        raise BadRequest(f"an array of {record['dtype']} {shape} has {wanted} bytes and {len(data)} came; send all of it")
    return np.frombuffer(data, dtype).astype(record["dtype"]).reshape(shape)


def golden(bundle: Bundle) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """(inputs, wanted outputs) of every golden vector. Raises `BundleRefused` for a file that is not an array."""
    count = bundle.manifest["golden"].get("vectors")
    if not isinstance(count, int) or count < 0:
        raise BundleRefused(f"{bundle.folder} is damaged: its manifest does not count its golden vectors; copy the artifact again")
    inputs, outputs = len(bundle.manifest["inputs"]), len(bundle.manifest["outputs"])
    return [(_rows(bundle, v, "input", inputs), _rows(bundle, v, "output", outputs)) for v in range(count)]


def _rows(bundle: Bundle, vector: int, kind: str, count: int) -> list[np.ndarray]:
    return [_load(bundle, f"golden/{vector}_{kind}_{index}.npy") for index in range(count)]


def _load(bundle: Bundle, name: str) -> np.ndarray:
    if name not in bundle.manifest["files"]:
        raise BundleRefused(f"{bundle.folder} is damaged: {name} is not among its files; copy the artifact again")
    try:
        return np.load(bundle.folder / name, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BundleRefused(f"{name} is not a readable .npy file ({error}); copy the artifact again") from error


def check_inputs(bundle: Bundle, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """`arrays` when their number, shapes and types are the model's. Raises `BadRequest` naming the first that is not."""
    ports = bundle.manifest["inputs"]
    if len(arrays) != len(ports):
        raise BadRequest(f"{bundle.manifest['name']} takes {len(ports)} inputs and was given {len(arrays)}")
    for index, array in enumerate(arrays):
        port = ports[index]
        if list(array.shape) != list(port["shape"]) or array.dtype.name != port["dtype"]:
            raise BadRequest(f"input {port['name']} is {array.dtype} {list(array.shape)} and the model takes {port['dtype']} {port['shape']}; convert it first")
    return arrays
