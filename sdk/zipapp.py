"""The runner as one file: `embarq-run.pyz`, made from the package's own sources, the same bytes every time."""

from __future__ import annotations

import functools
import io
import zipfile
from importlib import resources

PACKAGE = "embarq_run"
#: The oldest date a zip can hold: no build leaves its own.
DATE = (1980, 1, 1, 0, 0, 0)
OLDEST_PYTHON = (3, 9)
#: Read by whatever `python3` a device has, so it may use nothing that Python 2 would not parse.
MAIN = """import sys

if sys.version_info < {oldest}:
    sys.stderr.write("embarq-run: Python {text} or newer is needed and this is %d.%d; install a newer one or give ?python=\\n" % sys.version_info[:2])
    sys.exit(6)

from {package}.__main__ import main

sys.exit(main())
"""


@functools.cache
def runner_zipapp() -> bytes:
    """The bytes of `embarq-run.pyz`: a zip that `python3 embarq-run.pyz COMMAND FOLDER` runs."""
    stream = io.BytesIO(b"#!/usr/bin/env python3\n")
    stream.seek(0, io.SEEK_END)
    main = MAIN.format(oldest=OLDEST_PYTHON, text=".".join(map(str, OLDEST_PYTHON)), package=PACKAGE)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted({"__main__.py": main.encode(), **_sources()}.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, content)
    return stream.getvalue()


def _sources() -> dict[str, bytes]:
    folder = resources.files("sdk.runner")
    return {f"{PACKAGE}/{item.name}": item.read_bytes() for item in folder.iterdir() if item.name.endswith(".py")}
