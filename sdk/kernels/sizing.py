"""Asks the C sizing functions, on the host, how much memory a kernel wants.

`sdk/runtime/kernels/sizing.c` is pure integer arithmetic. It is compiled once into a shared library in the user's
cache folder, named by the hash of its source, and called through ctypes: planner and board run the same C.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sdk.errors import ToolError

RUNTIME = Path(__file__).resolve().parents[1] / "runtime"
FLAGS = ("-shared", "-O1", "-fPIC", "-std=c99", "-nostdlib")


class Window(ctypes.Structure):
    """`embarq_window`: geometry of a convolution or a pooling."""

    _fields_ = [(name, ctypes.c_int32) for name in ("batch", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c")] + [
        (name, ctypes.c_int16) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")
    ]

    def values(self) -> tuple[int, ...]:
        """The members in order, as a C initialiser wants them."""
        return tuple(int(getattr(self, name)) for name, _ in self._fields_)  # type: ignore[misc]


def ask(function: str, window: Window, *more: int) -> int:
    """Bytes that the C function `function` answers for a geometry. Example: `ask("embarq_raster_overlap_bytes", window, 1, 1)`."""
    call = getattr(_library(), function)
    call.argtypes = (ctypes.POINTER(Window), *(ctypes.c_int32 for _ in more))
    call.restype = ctypes.c_int32
    return int(call(ctypes.byref(window), *more))


@functools.cache
def _library() -> ctypes.CDLL:
    sources = (RUNTIME / "kernels" / "sizing.c", RUNTIME / "include" / "embarq_kernels.h", RUNTIME / "include" / "embarq.h")
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources) + " ".join(FLAGS).encode()).hexdigest()[:16]
    name = f"sizing-{digest}-{sys.platform}-{ctypes.sizeof(ctypes.c_void_p) * 8}{'.dll' if os.name == 'nt' else '.so'}"
    path = _cache() / name
    if not path.exists():
        _build(sources[0], path)
    return ctypes.CDLL(str(path))


def _cache() -> Path:
    """The user's cache folder, or a private temporary one where that cannot be written."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("embarq", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="embarq-"))


def _build(source: Path, target: Path) -> None:
    """Compile beside the target and rename, so that runs at the same time never see half a library."""
    complaints = []
    for command in _compilers():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            include = f"-I{RUNTIME / 'include'}"
            done = subprocess.run([*command, *FLAGS, include, str(source), "-o", str(made)], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                os.replace(made, target)
                return
            complaints.append(f"{Path(command[0]).name}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    told = f" ({'; '.join(complaints)})" if complaints else ""
    raise ToolError(f'asking the kernels for their memory needs a C compiler and none works{told}; run: pip install "embarq[firmware]"')


def _compilers() -> Iterator[tuple[str, ...]]:
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0])
        for binary in (folder / "zig", folder / "zig.exe"):
            if binary.exists():
                yield (str(binary), "cc")
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            yield (name,)
