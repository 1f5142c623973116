"""The bridge's real firmware around the loopback model, for any board of targets/."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from sdk.backends.firmware.toolchain import Source, toolchain
from targets.boards import defines, include_folders, linker_script, sources
from targets.device import load_device
from tests.bridge.board import DEVICE, HERE, ROOT

RUNTIME = ROOT / "sdk" / "runtime"


#: Bytes of the learner's variables: weights [3, 40], bias [3] and a counter, all float32.
LEARNER_BYTES = 4 * (3 * 40 + 3 + 1)


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="embarq-learner-")


def learner(device_name: str, compiler: str = "zig") -> Path:
    """The ELF of the model that learns, built once in a test run."""
    folder = Path(_root().name) / f"{device_name}-{compiler}"
    if folder.exists():
        return folder / "model.elf"
    folder.mkdir()
    return build(device_name, folder, learner=True, compiler=compiler)


def build(device_name: str, folder: Path, extra: str = "", learner: bool = False, compiler: str = "zig", keep: bool = True) -> Path:
    """The ELF for `device_name`, built in `folder`. `extra`: C that the build is to contain beside it. `learner`: the model that
    learns instead of the loopback's; `keep`: with flash set aside for what it learns."""
    device = load_device(device_name).as_emulated()
    (folder / "board.ld").write_text(linker_script(device, variable_bytes=LEARNER_BYTES if learner and keep else 0))
    (folder / "extra.c").write_text("typedef int embarq_nothing;\n" + extra)
    includes = (RUNTIME / "include", DEVICE, HERE, *include_folders())
    paths = [*sources(device), *sorted(DEVICE.glob("*.c")), RUNTIME / "main.c", folder / "extra.c"]
    paths += [HERE / "learner.c", HERE / "bind_learner.c"] if learner else [HERE / "model.c", HERE / "bind.c"]
    kit = toolchain(device, compiler)
    local = [_copy(path, folder) for path in paths]
    rows = [Source(path, includes, dict(defines(device)), "s") for path in local]
    return kit.link(kit.compile(rows, folder), Path("board.ld"), Path("model.elf"), folder)


def _copy(path: Path, folder: Path) -> Path:
    """Objects land beside their source, so the sources go where objects may be."""
    target = folder / f"{path.parent.name}_{path.name}"
    target.write_bytes(path.read_bytes())
    return Path(target.name)
