"""The C library of a model: one header, the kernels it uses and nothing else, and an example that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sdk.backends.firmware.emit import identifier
from sdk.graph.ir import Graph
from sdk.kernels.base import Call

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
#: Folders of kernels; no two files in them have one name.
FOLDERS = ("kernels", "training")


def library_files(name: str, graph: Graph, calls: Sequence[Call], header: str, source: str) -> Mapping[str, bytes]:
    """Relative path -> content of the library's folder: `include/`, `src/`, `example/main.c`, `README.md`."""
    ident = identifier(name)
    files = {f"include/{ident}.h": header.encode(), f"src/{ident}.c": source.encode()}
    for path in sorted((RUNTIME / "include").glob("*.h")):
        files[f"include/{path.name}"] = path.read_bytes()
    for kernel in kernel_sources(calls):
        files[f"src/{kernel.name}"] = kernel.read_bytes()
    for path in kernel_headers(calls):
        files[f"src/{path.name}"] = path.read_bytes()
    files["example/main.c"] = example(ident, graph).encode()
    files["README.md"] = readme(ident).encode()
    return files


def kernel_sources(calls: Sequence[Call]) -> list[Path]:
    """The C files of every kernel the calls use, each once, in a fixed order."""
    return [kernel_path(name) for name in sorted({s for call in calls for s in call.sources})]


def kernel_headers(calls: Sequence[Call]) -> list[Path]:
    """Their headers: those of the kernels always, those of training where a call trains."""
    trains = any(path.parent.name == "training" for path in kernel_sources(calls))
    return [path for folder in (FOLDERS if trains else FOLDERS[:1]) for path in sorted((RUNTIME / folder).glob("*.h"))]


def kernel_path(name: str) -> Path:
    """Where the kernel's C file lies."""
    return next(path for folder in FOLDERS if (path := RUNTIME / folder / name).is_file())


def kernel_files(root: Path = RUNTIME) -> list[Path]:
    """Every C file and header of the kernels under `root`."""
    return [path for folder in FOLDERS for path in sorted((root / folder).iterdir())]


def example(ident: str, graph: Graph) -> str:
    """A main() that lends the arena, fills the input and runs the model."""
    upper = ident.upper()
    value = graph[graph.inputs[0]]
    return f"""/* How to run the model from your own program. Build, with your compiler's flags for your chip:
 *   cc -std=c99 -O2 -Iinclude src/\\*.c example/main.c
 */
#include <string.h>

#include "{ident}.h"

#if {upper}_ARENA_0_BYTES > 0
static uint8_t arena[{upper}_ARENA_0_BYTES] __attribute__((aligned(16)));
#else
static uint8_t arena[16];
#endif

int main(void)
{{
    const embarq_model *model = &{ident}_model;
    /* A model planned over several memory regions wants one buffer for each arena_bytes[r] that is not 0. */
    const embarq_memory memory = {{{{arena, 0, 0, 0}}}};

    /* Input 0: {value.dtype}{list(value.shape)}, {value.size_bytes} bytes. */
    memset(embarq_at(&memory, model->inputs[0].ref), 0, model->inputs[0].size_bytes);
    embarq_run(model, &memory);
    const uint8_t *output = embarq_at(&memory, model->outputs[0].ref);
    return (int)output[0] & 0;
}}
""".replace("src/\\*.c", "src/ all .c files,")


def readme(ident: str) -> str:
    """One screen on how to use the library."""
    return f"""# {ident}: a model as a C library

- `include/{ident}.h` declares `{ident}_model`; `include/embarq.h` says what a model is and how to run it.
- `src/` holds the model and the kernels it uses. C99; needs `memcpy` and `memset` (and `libm` for float models). Nothing allocates.
- `example/main.c` runs it: lend `arena_bytes[r]` bytes for every region, write the inputs, call `embarq_run`, read the outputs.

Compile `src/*.c` with `-Iinclude -O2 -ffp-contract=off` for the chip it was planned for: weights are packed for the kernels of that chip.
"""
