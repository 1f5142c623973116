"""A model's folder on a device, from the host's side: put an artifact there, run it, switch to it. `sdk/runner/slot.py` tells its layout."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass

from firmware_bridge import ssh_errors
from firmware_bridge.runner import Fate, fate_error
from firmware_bridge.ssh import Done, SshHost, SshPipe, SshTarget
from firmware_bridge.ssh_upload import HASH_TIMEOUT_S, Progress, must, upload
from sdk.errors import DeviceError, EmbarqError

#: Where a virtual environment for engines is looked for before the system's python3, which on new systems refuses pip.
VENV_PYTHON = "embarq/venv/bin/python"
OLDEST_PYTHON = (3, 9)


@dataclass(frozen=True)
class Package:
    """What goes to the device. `archive`: an uncompressed tar of the artifact's folder; `unpacked_bytes`: of its files."""

    manifest: bytes
    archive: bytes
    unpacked_bytes: int
    runner: bytes

    @property
    def id(self) -> str:
        """The version's folder: the first 16 digits of the archive's SHA-256."""
        return hashlib.sha256(self.archive).hexdigest()[:16]


@dataclass(frozen=True)
class Slot:
    """`folder` of `host`, run with `python` (a path there) and `engine` (None: the artifact's own); `package` is what goes into it."""

    host: SshHost
    folder: str
    python: str
    package: Package
    engine: str | None = None

    @property
    def version(self) -> str:
        """The package's folder below versions/."""
        return f"{self.folder}/versions/{self.package.id}"

    @property
    def _runner(self) -> str:
        return f"{self.folder}/runner/{hashlib.sha256(self.package.runner).hexdigest()[:16]}.pyz"

    def _command(self, verb: str, *arguments: str) -> str:
        """The shell line that runs the runner."""
        return shlex.join([self.python, self._runner, verb, *arguments])

    def _engine(self) -> list[str]:
        return ["--engine", self.engine] if self.engine else []

    def stage(self, progress: Progress | None = None) -> None:
        """Put the runner and the artifact there, whole, without touching `current`.

        Raises before anything large is sent when the device cannot run it (architecture, Python, packages, space).
        """
        folders = " ".join(shlex.quote(f"{self.folder}/{name}") for name in ("versions", "incoming", "runner"))
        must(self.host, f"mkdir -p {folders}", f"make the folder {self.folder}")
        upload(self.host, self.package.runner, self._runner)
        if not self._accepted():
            self._receive(progress)

    def _accepted(self) -> bool:
        """Ask the runner about the manifest alone, so that a refusal costs no upload. True when the whole artifact is there already."""
        check = shlex.quote(f"{self.folder}/incoming/{self.package.id}.check")
        ask = self._command("accepts", f"{self.folder}/incoming/{self.package.id}.check", *self._engine())
        look = f"test -f {shlex.quote(self.version + '/manifest.json')} && echo there"
        line = f"mkdir -p {check} && cat > {check}/manifest.json && {ask}; code=$?; rm -rf {check}; {look}; exit $code"
        done = self.host.run(line, stdin=self.package.manifest)
        if done.code != 0:
            raise self._failure(done)
        return done.out.strip() == "there"

    def _failure(self, done: Done) -> EmbarqError:
        if ssh_errors.is_no_space(done.err):
            return ssh_errors.no_space(self.host.name, self.folder, len(self.package.manifest), None)
        fate = Fate(None, 0, done.err) if done.code is None else Fate.of_code(done.code, done.err)
        return fate_error(fate, self.host.name, DeviceError(f"{self.host.name} gave no reason; run the same command again"))

    def _receive(self, progress: Progress | None) -> None:
        archive, fresh = f"{self.folder}/incoming/{self.package.id}.tar", f"{self.folder}/incoming/{self.package.id}.new"
        # space for the archive and for what comes out of it: not after ten minutes of sending is it told that the second does not fit
        upload(self.host, self.package.archive, archive, progress, more_bytes=self.package.unpacked_bytes)
        tar, new, place = (shlex.quote(name) for name in (archive, fresh, self.version))
        # -o: the files belong to whoever unpacks them, root included; sync: a rename must not outlive the bytes it names
        unpack = f"rm -rf {new} && mkdir {new} && tar -xof {tar} -C {new} && {{ sync -f {new} || sync; }} 2>/dev/null"
        unpack += f" && rm -rf {place} && mv {new} {place} && rm -f {tar}"
        try:
            must(self.host, unpack, "unpack the artifact", HASH_TIMEOUT_S, self.package.unpacked_bytes)
        except DeviceError:
            if self.host.alive():
                self.host.run(f"rm -rf {new} {tar}")
            raise

    def serve(self) -> SshPipe:
        """The runner serving the package; `exec`, so that its end and what killed it are the channel's."""
        return self.host.pipe("exec " + self._command("serve", self.version, *self._engine()))

    def train(self, trainer: bytes) -> SshPipe:
        """`trainer`, the training process as a zipapp, serving the package."""
        place = f"{self.folder}/runner/train-{hashlib.sha256(trainer).hexdigest()[:16]}.pyz"
        upload(self.host, trainer, place)
        return self.host.pipe("exec " + shlex.join([self.python, place, self.version]))

    def _switch(self, verb: str, *arguments: str) -> dict[str, str | None]:
        done = self.host.run(self._command(verb, self.folder, *arguments))
        if done.code != 0:
            raise self._failure(done)
        return dict(json.loads(done.out))

    def activate(self) -> None:
        """Let `current` name the package, keep the one before as `previous`, remove all others."""
        self._switch("activate", self.package.id)

    def roll_back(self) -> str:
        """Let `current` name the artifact before again; its id. Raises `DeviceError` when there is none."""
        return str(self._switch("rollback")["current"])

    def discard(self) -> None:
        """Take the package away unless it is in use."""
        self._switch("discard", self.package.id)

    def reject(self) -> str:
        """Take the package away after a failed proof; what the device has now, as the end of a sentence."""
        now = self._switch("reject", self.package.id)["current"]
        if now == self.package.id:
            return f"it stays in {self.folder}, there is no earlier one to go back to"
        return f"{self.folder} still has the artifact before ({now})" if now else f"{self.folder} holds no artifact now"


def find_python(host: SshHost, asked: str | None) -> str:
    """The interpreter to use: the asked one, else that of ~/embarq/venv, else python3. Raises `DeviceError` (none, too old)."""
    choices = (asked,) if asked else (VENV_PYTHON, "python3")
    look = "import sys; print(\"%d.%d\" % sys.version_info[:2])"
    tries = (f"command -v {name} >/dev/null && {name} -c {shlex.quote(look)} && echo {name} && exit" for name in map(shlex.quote, choices))
    done = host.run("; ".join(tries))
    words = done.out.split("\n")
    found = re.fullmatch(r"(\d+)\.(\d+)", words[0].strip())
    if found is None or len(words) < 2:
        raise ssh_errors.no_python(host.name, asked or "python3")
    if (int(found[1]), int(found[2])) < OLDEST_PYTHON:
        raise ssh_errors.old_python(host.name, words[1], found[0], ".".join(map(str, OLDEST_PYTHON)))
    return words[1]


def open_slot(host: SshHost, target: SshTarget, name: str, package: Package) -> Slot:
    """The slot of an address: its path, else `embarq/<name>` in the user's home."""
    folder = target.path or "embarq/" + (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model")
    return Slot(host, "./" + folder if folder.startswith("-") else folder, find_python(host, target.python), package, target.engine)
