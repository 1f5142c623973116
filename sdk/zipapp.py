"""The device's halves as one file each, made from the package's own sources, the same bytes every time: `embarq-run.pyz`, `embarq-train.pyz`."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

PACKAGE = "embarq_run"
#: The oldest date a zip can hold: no build leaves its own.
DATE = (1980, 1, 1, 0, 0, 0)
OLDEST_PYTHON = (3, 9)
#: Read by whatever `python3` a device has, so it may use nothing that Python 2 would not parse.
MAIN = """import sys

if sys.version_info < {oldest}:
    sys.stderr.write("embarq-run: Python {text} or newer is needed and this is %d.%d; install a newer one or give ?python=\\n" % sys.version_info[:2])
    sys.exit(6)

from {module} import main

sys.exit(main())
"""


#: What training on a device needs of this package, and the oldest Python that reads it.
TRAINING_PARTS = ("__init__.py", "errors.py", "train_result.py", "graph", "planner", "runner", "training")
TRAINING_PYTHON = (3, 11)


@functools.cache
def runner_zipapp() -> bytes:
    """The bytes of `embarq-run.pyz`: a zip that `python3 embarq-run.pyz COMMAND FOLDER` runs."""
    sources = {f"{PACKAGE}/{name}": content for name, content in _sources(resources.files("sdk.runner")).items()}
    return _zipapp(f"{PACKAGE}.__main__", OLDEST_PYTHON, sources)


@functools.cache
def training_zipapp() -> bytes:
    """The bytes of `embarq-train.pyz`: a zip that `python3 embarq-train.pyz FOLDER` runs; the device needs torch and numpy."""
    root = resources.files("sdk")
    sources: dict[str, bytes] = {}
    for part in TRAINING_PARTS:
        item = root / part
        found = _sources(item) if item.is_dir() else {"": item.read_bytes()}
        sources |= {f"sdk/{part}/{name}".rstrip("/"): content for name, content in found.items()}
    return _zipapp("sdk.training.serve", TRAINING_PYTHON, sources)


def _zipapp(module: str, oldest: tuple[int, int], sources: Mapping[str, bytes]) -> bytes:
    """A zip with `sources` by path that runs `main()` of `module`."""
    stream = io.BytesIO(b"#!/usr/bin/env python3\n")
    stream.seek(0, io.SEEK_END)
    main = MAIN.format(oldest=oldest, text=".".join(map(str, oldest)), module=module)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted({"__main__.py": main.encode(), **sources}.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, content)
    return stream.getvalue()


def _sources(folder: Traversable) -> dict[str, bytes]:
    """Every Python file below `folder`, by its path there."""
    found: dict[str, bytes] = {}
    for item in folder.iterdir():
        if item.is_dir():
            found |= {f"{item.name}/{name}": content for name, content in _sources(item).items()}
        elif item.name.endswith(".py"):
            found[item.name] = item.read_bytes()
    return found
