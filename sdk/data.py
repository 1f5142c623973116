"""Calibration and evaluation data: many kinds of source, one kind of result.

    calibration = read(source, graph)          # checked against the graph's inputs
    for batch in calibration.batches(16):      # {"input": float32 [16, H, W, C]}, as often as wanted

A source is an array `[n, ...]`, a mapping or tuple of arrays (one per input), a `.npy` or `.npz` file, a folder of `.npy`
files or pictures, or anything that yields samples or batches (generator, list, torch DataLoader).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import DataError
from sdk.graph.ir import Graph, Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
Sample = dict[str, np.ndarray]  # input name -> array of the input's shape


@dataclass(frozen=True)
class Calibration:
    """Samples that fit a graph's inputs. `load(i)` gives sample `i`: input name -> array of the input's shape and dtype.

    Files are read again each time they are asked for, so memory stays bounded; what a generator gave is kept.
    """

    count: int
    load: Callable[[int], Sample]
    origin: str

    def batches(self, size: int) -> Iterator[Sample]:
        """All samples in order, `size` at a time (the last batch may be smaller)."""
        for first in range(0, self.count, size):
            samples = [self.load(i) for i in range(first, min(first + size, self.count))]
            yield {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}

    def spread(self, limit: int) -> Calibration:
        """At most `limit` samples, evenly over all: a folder or set sorted by class would else show one class only."""
        if self.count <= limit:
            return self
        rows = np.linspace(0, self.count - 1, limit).round().astype(int)
        return Calibration(limit, lambda i: self.load(int(rows[i])), self.origin)


def read(source: Any, graph: Graph, limit: int = 512) -> Calibration:
    """`source` as samples for `graph`, at most `limit` of them, spread evenly where the source has more.

    Raises DataError, one sentence: what was given, what the model's input wants, the mend.
    """
    if isinstance(source, Calibration):
        return source.spread(limit)
    if callable(source) and not hasattr(source, "__iter__") and not hasattr(source, "__array__"):
        source = source()
    if isinstance(source, str | Path):
        return _from_path(Path(source), graph, limit)
    if isinstance(source, Mapping):
        return _from_arrays({str(k): _array(v, str(k)) for k, v in source.items()}, graph, limit, "the mapping")
    if hasattr(source, "__array__") or hasattr(source, "detach"):
        return _from_arrays({_only_input(graph, "one array").name: _array(source, "the array")}, graph, limit, "the array")
    if isinstance(source, tuple) and _one_each(source, graph):
        return _from_arrays({n: _array(s, n) for n, s in zip(graph.inputs, source, strict=True)}, graph, limit, "the tuple")
    if isinstance(source, Iterable):
        return _from_iterable(source, graph, limit)
    raise DataError(f"calibration data is a {type(source).__name__}; give an array, a file, a folder or something that yields samples")


def image_folder(folder: str | Path, graph: Graph, scale: float = 1 / 255, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> Calibration:
    """The pictures under `folder`, resized (bilinear) to the graph's one input and read as `(pixel * scale - mean) / std`.

    `mean` and `std` have one number, or one for each channel. The layout (channels first or last) is the input's.
    """
    files = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in PICTURES]
    if not files:
        raise DataError(f"folder {folder} holds no pictures ({', '.join(PICTURES)}); give the folder that does")
    tensor = _only_input(graph, f"the pictures in {folder}")
    return Calibration(len(files), lambda i: {tensor.name: _picture(files[i], tensor, scale, mean, std)}, str(folder))


def _from_path(path: Path, graph: Graph, limit: int) -> Calibration:
    if not path.exists():
        raise DataError(f"calibration data {path} does not exist; give a .npy or .npz file, or a folder of .npy files or pictures")
    if path.is_dir():
        return _from_folder(path, graph, limit)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(f"calibration file {path} is no .npy or .npz; save it with numpy.save, or give a folder of pictures")
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        return _from_arrays({_only_input(graph, str(path)).name: loaded}, graph, limit, str(path))
    return _from_arrays(_choose(loaded, graph, path), graph, limit, str(path))


def _load(path: Path) -> Any:
    """An array (.npy) or a dict of arrays (.npz); pickles are refused."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, KeyError) as fault:
        raise DataError(f"calibration file {path} cannot be read ({fault}); save plain arrays with numpy.save or numpy.savez") from None
    except Exception as fault:  # numpy lets zipfile's and struct's own errors through
        raise DataError(f"calibration file {path} is damaged ({fault}); save it again with numpy.save or numpy.savez") from None


def _choose(arrays: Mapping[str, np.ndarray], graph: Graph, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz that are the graph's inputs: by name, else `x`, else the only one of a fitting shape."""
    if all(name in arrays for name in graph.inputs):
        return {name: arrays[name] for name in graph.inputs}
    tensor = _only_input(graph, str(path))
    fitting = [key for key in arrays if _fits_many(arrays[key], tensor)]
    key = "x" if "x" in arrays else fitting[0] if len(fitting) == 1 else ""
    if not key:
        found = ", ".join(f"{k} {list(v.shape)}" for k, v in arrays.items()) or "nothing"
        raise DataError(f"{path} holds {found}; name one array {tensor.name!r} or 'x', of shape {_wanted(tensor)}")
    return {tensor.name: arrays[key]}


def _from_folder(folder: Path, graph: Graph, limit: int) -> Calibration:
    files = sorted(folder.rglob("*.npy"))
    if not files:
        return image_folder(folder, graph).spread(limit)
    tensor = _only_input(graph, f"the .npy files in {folder}")
    found = Calibration(len(files), lambda i: {tensor.name: _one(_load(files[i]), tensor, str(files[i]))}, str(folder))
    return found.spread(limit)


def _from_arrays(arrays: Mapping[str, np.ndarray], graph: Graph, limit: int, origin: str) -> Calibration:
    missing = [name for name in graph.inputs if name not in arrays]
    if missing:
        given = ", ".join(arrays) or "nothing"
        raise DataError(f"{origin} gives {given} but the model also reads {', '.join(missing)}; add an array for it")
    many = {name: _many(arrays[name], graph[name], origin) for name in graph.inputs}
    rows = {name: _rows(graph[name]) for name in many}
    counts = {name: len(a) // rows[name] for name, a in many.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"{origin} gives {', '.join(f'{n} samples of {k}' for k, n in counts.items())}; give as many of each")
    return Calibration(next(iter(counts.values())), lambda i: {n: a[i * rows[n] : (i + 1) * rows[n]] for n, a in many.items()}, origin).spread(limit)


def _from_iterable(source: Iterable[Any], graph: Graph, limit: int) -> Calibration:
    kept: list[Sample] = []
    for item in source:
        batch = _item(item, graph)
        rows = {name: _rows(graph[name]) for name in batch}
        count = min(len(a) // rows[name] for name, a in batch.items())
        kept += [{name: a[i * rows[name] : (i + 1) * rows[name]] for name, a in batch.items()} for i in range(count)]
        if len(kept) >= limit:
            break
    if not kept:
        raise DataError(f"calibration data is empty; give at least one sample of shape {_wanted(graph[graph.inputs[0]])}")
    return Calibration(min(len(kept), limit), kept.__getitem__, "the samples")


def _item(item: Any, graph: Graph) -> Sample:
    """What an iterable yielded, as a batch: a mapping, one array per input, or (input, label, ...) of a one-input model."""
    if isinstance(item, Mapping):
        missing = [name for name in graph.inputs if name not in item]
        if missing:
            given = ", ".join(map(str, item)) or "nothing"
            raise DataError(f"a sample gives {given} but the model also reads {', '.join(missing)}; add it")
        batch = {name: item[name] for name in graph.inputs}
    elif len(graph.inputs) == 1:
        first = item[0] if isinstance(item, tuple | list) and item and hasattr(item[0], "shape") else item
        batch = {graph.inputs[0]: first}
    elif isinstance(item, tuple | list) and len(item) >= len(graph.inputs):
        batch = dict(zip(graph.inputs, item, strict=False))
    else:
        names = ", ".join(graph.inputs)
        raise DataError(f"a sample is a {type(item).__name__} but the model reads {names}; yield a tuple or a dict with each of them")
    return {name: _many(_array(value, name), graph[name], "a sample", lone=True) for name, value in batch.items()}


def _array(value: Any, name: str) -> np.ndarray:
    """Anything array-like as numpy (a torch tensor without importing torch)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as fault:
        raise DataError(f"calibration data for {name} is no array ({fault}); give samples of one shape") from None


def _only_input(graph: Graph, what: str) -> Tensor:
    if len(graph.inputs) != 1:
        raise DataError(f"{what} feeds one input but the model reads {', '.join(graph.inputs)}; give a dict with an array for each")
    return graph[graph.inputs[0]]


def _one_each(source: tuple[Any, ...], graph: Graph) -> bool:
    """True for a tuple with one array of many samples for each input."""
    return len(source) == len(graph.inputs) and all(_fits_many(s, graph[n]) for s, n in zip(source, graph.inputs, strict=True))


def _rows(tensor: Tensor) -> int:
    """Values of dimension 0 that one sample has: 1, or more where a model has a fixed batch or none at all."""
    return max(1, tensor.shape[0]) if tensor.shape else 1


def _is_stack(shape: tuple[int, ...], tensor: Tensor) -> bool:
    """True for samples of several rows each with a dimension of their own in front."""
    return _rows(tensor) > 1 and shape[1:] == tensor.shape


def _fits_many(value: Any, tensor: Tensor) -> bool:
    shape = tuple(getattr(value, "shape", ()))
    return _is_stack(shape, tensor) or (len(shape) == len(tensor.shape) and shape[1:] == tensor.shape[1:] and shape[0] % _rows(tensor) == 0)


def _wanted(tensor: Tensor) -> str:
    return f"[n{''.join(f', {d}' for d in (tensor.shape if _rows(tensor) > 1 else tensor.shape[1:]))}]"


def _many(value: np.ndarray, tensor: Tensor, origin: str, lone: bool = False) -> np.ndarray:
    """`value` checked as `[n, *shape[1:]]` of the input's dtype; `lone`: one sample without the first dimension will do."""
    if lone and value.shape == tensor.shape[1:]:
        value = value[None]
    if not _fits_many(value, tensor):
        found, mend = list(value.shape), _mend(value.shape, tensor)
        raise DataError(f"{origin} has shape {found} where input {tensor.name} wants {_wanted(tensor)}; {mend}")
    if _is_stack(value.shape, tensor):
        value = value.reshape(-1, *tensor.shape[1:])
    if len(value) == 0:
        raise DataError(f"{origin} is empty (shape {list(value.shape)}); give at least one sample of shape {_wanted(tensor)}")
    return _typed(value, tensor, origin)


def _mend(shape: tuple[int, ...], tensor: Tensor) -> str:
    """What to do about a wrong shape, as the end of the sentence."""
    if shape == tensor.shape[1:]:
        return "add the first dimension (x[None])"
    if len(shape) == 4 and (shape[2], shape[3], shape[1]) == tensor.shape[1:]:
        return "move the channels last (x.transpose(0, 2, 3, 1))"
    if len(shape) == 4 and (shape[3], shape[1], shape[2]) == tensor.shape[1:]:
        return "move the channels first (x.transpose(0, 3, 1, 2))"
    return "give samples of the model's own size"


def _typed(value: np.ndarray, tensor: Tensor, origin: str) -> np.ndarray:
    if str(value.dtype) == tensor.dtype:
        return value
    if tensor.dtype == "float32" and value.dtype.kind == "f":
        return value.astype(np.float32)
    if tensor.dtype == "float32" and value.dtype.kind in "iub":
        how = "scale it as in training, for example x.astype('float32') / 255, or x.astype('float32') where the model takes raw values"
        raise DataError(f"{origin} is {value.dtype} where input {tensor.name} wants float32; {how}")
    if tensor.dtype in ("int32", "int64") and value.dtype.kind in "iu":
        return value.astype(tensor.dtype)
    raise DataError(f"{origin} is {value.dtype} where input {tensor.name} wants {tensor.dtype}; convert it")


def _one(value: Any, tensor: Tensor, origin: str) -> np.ndarray:
    """One sample from one file, with or without its first dimension, in the input's shape."""
    checked = _many(_array(value, origin), tensor, origin, lone=True)
    if len(checked) != _rows(tensor):
        raise DataError(f"{origin} holds {len(checked) // _rows(tensor)} samples; in a folder each .npy file holds one (or give the file itself)")
    return checked


def _picture(path: Path, tensor: Tensor, scale: float, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DataError(f"reading {path} needs Pillow; pip install pillow, or give .npy files") from None
    height, width, channels, channels_last = _layout(tensor)
    try:
        image = Image.open(path).convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError) as fault:
        raise DataError(f"picture {path} cannot be read ({fault}); remove it from the folder or save it again") from None
    x = np.asarray(image, np.float32).reshape(height, width, channels) * np.float32(scale)
    scaled = (x - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled if channels_last else scaled.transpose(2, 0, 1))[None].astype(np.float32)


def _layout(tensor: Tensor) -> tuple[int, int, int, bool]:
    """(height, width, channels, channels last?) of an image input."""
    shape = tensor.shape
    if len(shape) == 4 and shape[3] in (1, 3):
        return shape[1], shape[2], shape[3], True
    if len(shape) == 4 and shape[1] in (1, 3):
        return shape[2], shape[3], shape[1], False
    raise DataError(f"input {tensor.name} of shape {list(shape)} is no picture of 1 or 3 channels; give arrays instead of pictures")
