"""Reading what a model is fed from .npy and .npz files, and writing what it gave."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdk.errors import DataError, UsageError
from sdk.golden import random_inputs
from sdk.graph.ir import Graph, Tensor

Sample = tuple[np.ndarray, ...]  # one array per input of the model, each of the input's shape


def read_samples(file: str | None, tensors: Sequence[Tensor], seed: int) -> list[Sample]:
    """The inputs in `file`, one sample each; without a file, one that is drawn from `seed`.

    file: a .npy for a model of one input, a .npz with an array per input name; one input, or several stacked.
    Raises DataError when the file cannot be read or holds other shapes.
    """
    if file is None:
        named = {tensor.name: tensor for tensor in tensors}
        return random_inputs(Graph("inputs", tuple(named), (), named, ()), 1, seed)
    arrays = _load(file, tensors)
    columns = [_split(file, arrays[tensor.name], tensor) for tensor in tensors]
    counts = {len(column) for column in columns}
    if len(counts) != 1:
        raise DataError(f"{file} holds {' and '.join(map(str, sorted(counts)))} samples of different inputs; give as many of each")
    return list(zip(*columns, strict=True))


def _load(file: str, tensors: Sequence[Tensor]) -> Mapping[str, np.ndarray]:
    """Input name -> what the file holds for it."""
    names = [tensor.name for tensor in tensors]
    try:
        with open(file, "rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error}); give a .npy or .npz file") from None
    except Exception as error:  # numpy lets the errors of zipfile and struct through
        raise DataError(f"{file} is no .npy or .npz file ({error}); save it with numpy.save or numpy.savez") from None
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        found = ", ".join(key or "one array" for key in arrays) or "nothing"
        raise DataError(f"{file} holds {found} and the model reads {', '.join(names)}; save them with numpy.savez under these names")
    return arrays


def _split(file: str, array: np.ndarray, tensor: Tensor) -> list[np.ndarray]:
    """The samples of one input, each of the input's shape."""
    shape = tensor.shape
    if array.shape in (shape, shape[1:]):
        return [array.reshape(shape)]
    if shape[:1] == (1,) and array.shape[1:] == shape[1:] and len(array):
        return [array[i : i + 1] for i in range(len(array))]
    raise DataError(f"{file} has shape {list(array.shape)} where input {tensor.name} wants {list(shape)}; give that, or several stacked")


def check_output(file: str | None, names: Sequence[str]) -> None:
    """Refuse, before anything runs, a file that could not hold the outputs. Raises UsageError."""
    if file is None:
        return
    ending = Path(file).suffix.lower()
    if ending not in (".npy", ".npz") or (ending == ".npy" and len(names) > 1):
        wanted = "a .npy or .npz file" if len(names) == 1 else f"a .npz file: there are {len(names)} outputs"
        raise UsageError(f"cannot write the outputs to {file}; give {wanted}")
    if not Path(file).resolve().parent.is_dir():
        raise UsageError(f"cannot write {file}: there is no folder {Path(file).parent}; make it first")


def write_outputs(file: str, outputs: Mapping[str, np.ndarray]) -> None:
    """Write beside the file, then rename: a stopped run leaves the old file, or none."""
    path = Path(file)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.resolve().parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            if path.suffix.lower() == ".npz":
                np.savez(stream, **outputs)  # type: ignore[arg-type]
            else:
                np.save(stream, next(iter(outputs.values())), allow_pickle=False)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
