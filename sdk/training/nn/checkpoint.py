"""Checkpoints that survive a power cut: written aside, synced, renamed, and refused when a single byte is wrong.

The file: 8 bytes `EMBQCKP1`; the length of the header, 8 bytes little-endian; the header, JSON: {"model_id", "meta", "arrays": [[name,
dtype, shape, order], ...]}; the arrays' bytes one behind the other, order "C" by rows, "F" by columns; the SHA-256 of everything before, 32
bytes. A reader refuses another first word, a length that does not add up, a wrong hash and another model. Nothing in it can be executed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import UsageError

MAGIC = b"EMBQCKP1"
_HASH_BYTES = 32
#: Bytes handed to the operating system at once.
_PIECE = 1 << 20


def save_checkpoint(path: str | Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], model_id: str) -> None:
    """Write the arrays and plain values of `meta` to `path`, all or nothing: until the new file is whole on disk, the old one stays.

    Raises UsageError with the old file intact where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.new")
    try:
        _write(aside, _gathered(_pieces(arrays, meta, model_id)))
        os.replace(aside, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        size = sum(array.nbytes for array in arrays.values())
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free space or name another disk"
            raise UsageError(f"checkpoint {path} needs {size:,} bytes and the disk is full, so the one before was kept; {mend}") from error
        raise UsageError(f"checkpoint {path} cannot be written ({error.strerror}), so what was there before was kept; name a folder that can be") from error


def load_checkpoint(path: str | Path, model_id: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, meta) of a checkpoint. model_id: "" takes any. Raises UsageError for another model's, and for a damaged or missing file."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"checkpoint {path} cannot be read ({error.strerror}); name one that save_checkpoint wrote") from error
    damaged = UsageError(f"checkpoint {path} is damaged or is none; delete it to start anew")
    if len(content) < 16 + _HASH_BYTES or content[:8] != MAGIC or hashlib.sha256(content[:-_HASH_BYTES]).digest() != content[-_HASH_BYTES:]:
        raise damaged
    begin = 16 + int.from_bytes(content[8:16], "little")
    header = json.loads(content[16:begin])
    if model_id and header["model_id"] != model_id:
        raise UsageError(f"checkpoint {path} is of another model than the one that is trained; name another file, or delete it to start anew")
    arrays = {}
    for name, dtype, shape, order in header["arrays"]:
        array = np.frombuffer(content, np.dtype(dtype), int(np.prod(shape, dtype=np.int64)), begin).reshape(shape, order=order)
        arrays[name], begin = array.copy(order="K"), begin + array.nbytes
    if begin != len(content) - _HASH_BYTES:
        raise damaged
    return arrays, header["meta"]


def _pieces(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], model_id: str) -> Iterator[memoryview]:
    """The file's bytes in order, the arrays uncopied; last the hash of all before."""
    laid = {name: array.T if _by_columns(array) else np.asarray(array, order="C") for name, array in arrays.items()}
    rows = [[name, array.dtype.str, list(array.shape), "F" if _by_columns(array) else "C"] for name, array in arrays.items()]
    header = json.dumps({"model_id": model_id, "meta": dict(meta), "arrays": rows}).encode()
    digest = hashlib.sha256()
    first = np.frombuffer(MAGIC + len(header).to_bytes(8, "little") + header, np.uint8)
    for content in (first, *laid.values()):
        whole = memoryview(content.data).cast("B") if content.size else memoryview(b"")
        for begin in range(0, len(whole), _PIECE):
            piece = whole[begin : begin + _PIECE]
            digest.update(piece)
            yield piece
    yield memoryview(digest.digest())


def _gathered(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """The same bytes with small pieces put together: a call of the operating system for each would cost more than the bytes."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= _PIECE:
            yield memoryview(waiting)
            waiting = bytearray()
    yield memoryview(waiting)


def _by_columns(array: np.ndarray) -> bool:
    """Whether it lies column by column, as bases do: products with it round in another way when it lies otherwise."""
    return array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous


def _write(path: Path, pieces: Iterator[memoryview]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o644)
    try:
        for piece in pieces:
            while piece:
                piece = piece[os.write(file, piece) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """Without this the new name may be lost with the power although the bytes are there; some file systems cannot, and have the old file then."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
