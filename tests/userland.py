"""Run commands in the arm64 userland that `scripts/arm64-userland` sets up: real aarch64 code of Python and the engines, under qemu-user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.data import ROOT

#: qemu 7.2's default processor computed wrong int8 results; this one is a Raspberry Pi 4's.
PROCESSOR = "cortex-a72"
#: The setting-up waits for a mirror and two hundred packages.
SETUP_S, RUN_S = 900, 300


def userland() -> Path:
    """The userland's root, set up on the first call ever (about 2 minutes, then kept); skips with the script's sentence where it cannot be."""
    if os.environ.get("EMBARQ_NO_ARM64"):
        pytest.skip("EMBARQ_NO_ARM64 is set: no arm64 userland")
    try:
        done = subprocess.run([sys.executable, str(ROOT / "scripts" / "arm64-userland")], capture_output=True, text=True, timeout=SETUP_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the arm64 userland was not ready after {SETUP_S} s; run scripts/arm64-userland by hand")
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Machine:
    """The userland as a machine: a folder of its own in it, and Python with the engines' aarch64 wheels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=root / "opt" / "embarq"))

    def put(self, source: Path, name: str) -> str:
        """Copy a file or folder in; its path there."""
        (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        return self.inside(name)

    def inside(self, name: str) -> str:
        """The path of a file as the userland sees it."""
        return "/" + str((self.folder / name).relative_to(self.root))

    def python(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """`python3 ARGUMENTS` there."""
        qemu = ["/usr/bin/qemu-aarch64-static", "-cpu", PROCESSOR]
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/opt/embarq/site", "HOME": "/", "OMP_NUM_THREADS": "1"}
        command = ["chroot", str(self.root), *qemu, "/usr/bin/python3.11", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_S, env=settings, check=False)

    def close(self) -> None:
        """Remove what was put in."""
        shutil.rmtree(self.folder, ignore_errors=True)
