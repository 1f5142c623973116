"""Run commands in an ARM userland that `scripts/arm-userland` sets up: real ARM code of Python and the engines, under qemu-user."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdk.runner import rpc
from sdk.zipapp import runner_zipapp
from tests.data import ROOT

#: qemu 7.2's default processor computed wrong int8 results; these are a Raspberry Pi 4's and a Raspberry Pi 2's.
QEMU = {"arm64": ("qemu-aarch64-static", "cortex-a72"), "armhf": ("qemu-arm-static", "cortex-a7")}
#: The setting-up waits for a mirror and two hundred packages.
SETUP_S, RUN_S = 900, 300


def userland(kind: str = "arm64") -> Path:
    """The userland's root, set up on the first call ever (about 2 minutes, then kept); skips with the script's sentence where it cannot be."""
    if os.environ.get("EMBARQ_NO_ARM"):
        pytest.skip("EMBARQ_NO_ARM is set: no ARM userland")
    try:
        done = subprocess.run([sys.executable, str(ROOT / "scripts" / "arm-userland"), kind], capture_output=True, text=True, timeout=SETUP_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the {kind} userland was not ready after {SETUP_S} s; run scripts/arm-userland {kind} by hand")
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Machine:
    """The userland as a machine: a folder of its own in it, and Python with the engines' aarch64 wheels."""

    def __init__(self, root: Path, kind: str = "arm64") -> None:
        self.root, self.kind = root, kind
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=root / "opt" / "embarq"))
        (self.folder / "embarq-run.pyz").write_bytes(runner_zipapp())

    def put(self, source: Path, name: str) -> str:
        """Copy a file or folder in; its path there."""
        (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        return self.inside(name)

    def inside(self, name: str) -> str:
        """The path of a file as the userland sees it."""
        return "/" + str((self.folder / name).relative_to(self.root))

    def python(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """`python3 ARGUMENTS` there."""
        return self.program("/usr/bin/python3.11", *arguments, stdin=stdin)

    def program(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A program there with its arguments."""
        name, processor = QEMU[self.kind]
        qemu = [f"/usr/bin/{name}", "-cpu", processor]
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/opt/embarq/site", "HOME": "/", "OMP_NUM_THREADS": "1"}
        command = ["chroot", str(self.root), *qemu, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_S, env=settings, check=False)

    def runner(self, command: str, folder: str) -> tuple[int, dict[str, Any], str]:
        """(exit code, what it printed, stderr) of `embarq-run COMMAND FOLDER --json` there."""
        done = self.python(self.inside("embarq-run.pyz"), command, folder, "--json")
        lines = done.stdout.decode().strip().splitlines()
        return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr.decode()

    def served(self, folder: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The first output for each input, over JSON-RPC as a host talks to a Pi."""

        def packed(array: np.ndarray) -> dict[str, Any]:
            return {"dtype": array.dtype.name, "shape": list(array.shape), "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}

        requests = [("run", {"inputs": [packed(x)]}) for x in inputs] + [("shutdown", {})]
        stdin = b"".join(rpc.frame({"jsonrpc": "2.0", "id": n, "method": m, "params": p}) for n, (m, p) in enumerate(requests))
        done = self.python(self.inside("embarq-run.pyz"), "serve", folder, stdin=stdin)
        stream, found = io.BytesIO(done.stdout), []
        for _ in inputs:
            body = rpc.read_body(stream.readline, stream.read)
            assert body is not None, done.stderr.decode()[-500:]
            record = json.loads(body)["result"]["outputs"][0]
            found.append(np.frombuffer(base64.b64decode(record["data"]), record["dtype"]).reshape(record["shape"]))
        return found

    def close(self) -> None:
        """Remove what was put in."""
        shutil.rmtree(self.folder, ignore_errors=True)
