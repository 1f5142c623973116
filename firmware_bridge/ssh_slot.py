"""A model's folder on a device: versions side by side, `current` naming the one in use, the one before kept for going back.

    SLOT/versions/<id>/     artifacts, each whole (put there by a rename)
    SLOT/current            symbolic link to versions/<id>, replaced by a rename: at every moment it names one whole artifact
    SLOT/previous           the same for the artifact before
    SLOT/incoming/          uploads that are not finished
    SLOT/runner/<hash>.pyz  the runner of the embarq that put the artifact there
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from typing import Any

from firmware_bridge import ssh_errors
from firmware_bridge.runner import Fate, fate_error
from firmware_bridge.ssh import SshHost, SshPipe
from firmware_bridge.ssh_upload import HASH_TIMEOUT_S, Progress, check_space, must, upload
from sdk.errors import DeviceError

#: Where a virtual environment for engines is looked for before the system's python3, which on new systems refuses pip.
VENV_PYTHON = "embarq/venv/bin/python"
OLDEST_PYTHON = (3, 9)
ID = re.compile(r"[0-9a-f]{16}")
#: rename(2) over the old link: `ln -sf` removes it first, and for a moment there would be none.
RELINK = "import os, sys; os.symlink(sys.argv[1], sys.argv[2] + '.new'); os.replace(sys.argv[2] + '.new', sys.argv[2])"


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
    """`folder` of `host`, run with `python` (a path there) and `engine` (None: the artifact's own)."""

    host: SshHost
    folder: str
    python: str
    engine: str | None = None

    def quoted(self, *parts: str) -> str:
        """A path below the slot, for the shell."""
        return shlex.quote("/".join((self.folder, *parts)))

    def stage(self, package: Package, progress: Progress | None = None) -> None:
        """Put the runner and the artifact there, whole, without touching `current`.

        Raises before anything large is sent when the device cannot run it (architecture, Python, packages, space).
        """
        must(self.host, f"mkdir -p {self.quoted('versions')} {self.quoted('incoming')} {self.quoted('runner')}", f"make the folder {self.folder}")
        upload(self.host, package.runner, self._runner(package))
        self._check_accepts(package)
        if not self.has(package.id):
            self._receive(package, progress)

    def has(self, version: str) -> bool:
        """True when that version is there."""
        return self.host.run(f"test -f {self.quoted('versions', version, 'manifest.json')}").code == 0

    def _runner(self, package: Package) -> str:
        return f"{self.folder}/runner/{hashlib.sha256(package.runner).hexdigest()[:16]}.pyz"

    def command(self, package: Package, verb: str, folder: str) -> str:
        """The shell line that runs the runner; `exec`, so that a signal reaches it and its end is the channel's."""
        engine = f" --engine {shlex.quote(self.engine)}" if self.engine else ""
        return f"exec {shlex.quote(self.python)} {shlex.quote(self._runner(package))} {verb} {folder}{engine}"

    def _check_accepts(self, package: Package) -> None:
        """Ask the runner about the manifest alone: a refusal costs no upload."""
        folder = f"{self.folder}/incoming/{package.id}.check"
        must(self.host, f"mkdir -p {shlex.quote(folder)}", f"make {folder}")
        try:
            upload(self.host, package.manifest, f"{folder}/manifest.json")
            done = self.host.run(self.command(package, "accepts", shlex.quote(folder)))
        finally:
            if self.host.alive():
                self.host.run(f"rm -rf {shlex.quote(folder)}")
        if done.code != 0:
            fate = Fate(None, 0, done.err) if done.code is None else Fate.of_code(done.code, done.err)
            raise fate_error(fate, self.host.name, DeviceError(f"{self.host.name} does not say whether it can run the artifact; try again"))

    def _receive(self, package: Package, progress: Progress | None) -> None:
        archive = f"{self.folder}/incoming/{package.id}.tar"
        # for both the archive and what comes out of it: not after ten minutes of sending is it told that the second does not fit
        check_space(self.host, archive, package.unpacked_bytes + len(package.archive) - self._arrived(archive))
        upload(self.host, package.archive, archive, progress)
        new, place = self.quoted("incoming", package.id + ".new"), self.quoted("versions", package.id)
        quoted = shlex.quote(archive)
        try:
            # -o: the files belong to whoever unpacks them, root included
            unpack = f"rm -rf {new} && mkdir {new} && tar -xof {quoted} -C {new} && {{ sync {new} 2>/dev/null || true; }}"
            must(self.host, unpack, "unpack the artifact", HASH_TIMEOUT_S, package.unpacked_bytes)
            must(self.host, f"rm -rf {place} && mv {new} {place}", "put the artifact in place")
        except DeviceError:
            self.host.run(f"rm -rf {new} {quoted}")
            raise
        self.host.run(f"rm -f {quoted}")

    def _arrived(self, archive: str) -> int:
        """Bytes of the archive that are there from an earlier try."""
        names = f"{shlex.quote(archive)} {shlex.quote(archive + '.part')}"
        return sum(map(int, self.host.run(f"for f in {names}; do test -f $f && wc -c < $f; done").out.split()))

    def serve(self, package: Package) -> SshPipe:
        """The runner serving that version."""
        return self.host.pipe(self.command(package, "serve", self.quoted("versions", package.id)))

    def linked(self, link: str) -> str | None:
        """The version that "current" or "previous" names, None without one."""
        name = self.host.run(f"readlink {self.quoted(link)} 2>/dev/null").out.strip().rpartition("/")[2]
        return name if ID.fullmatch(name) else None

    def activate(self, version: str) -> None:
        """Let `current` name that version, keep the one before as `previous`, remove all others."""
        before = self.linked("current")
        if before != version:
            if before is not None:
                self._link("previous", before)
            self._link("current", version)
        self._prune()

    def _link(self, link: str, version: str) -> None:
        must(self.host, f"rm -f {self.quoted(link + '.new')}", f"clear {link}.new")
        must(self.host, f"{shlex.quote(self.python)} -c {shlex.quote(RELINK)} versions/{version} {self.quoted(link)}", f"switch {link} to {version}")

    def _prune(self) -> None:
        kept = {self.linked("current"), self.linked("previous")}
        listed = self.host.run(f"ls {self.quoted('versions')}").out.split()
        old = [self.quoted("versions", name) for name in listed if ID.fullmatch(name) and name not in kept]
        self.host.run(f"rm -rf {' '.join(old)} {self.quoted('incoming')}/*.tar.part" if old else f"rm -f {self.quoted('incoming')}/*.tar.part")

    def roll_back(self) -> str:
        """Let `current` name the artifact before again; its id. Raises `DeviceError` when there is none."""
        before, now = self.linked("previous"), self.linked("current")
        if before is None or before == now or not self.has(before):
            raise DeviceError(f"{self.host.name} keeps no earlier artifact in {self.folder}; flash the one you want")
        self._link("current", before)
        if now is not None:
            self._link("previous", now)
        return before

    def reject(self, version: str) -> str:
        """Take a version that failed away; what the device runs now, as the end of a sentence."""
        if self.linked("current") == version:
            before = self.linked("previous")
            if before in (None, version) or not self.has(str(before)):
                return f"it stays in {self.folder}, there is no earlier one to go back to"
            self._link("current", str(before))
        self.host.run(f"rm -rf {self.quoted('versions', version)}")
        now = self.linked("current")
        if self.linked("previous") in (version, now):
            self.host.run(f"rm -f {self.quoted('previous')}")
        return f"{self.folder} still has the artifact before ({now})" if now else f"{self.folder} holds no artifact now"


def find_python(host: SshHost, asked: str | None) -> str:
    """The interpreter to use: the asked one, else that of ~/embarq/venv, else python3. Raises `DeviceError` (none, too old)."""
    for python in (asked,) if asked else (VENV_PYTHON, "python3"):
        done = host.run(f"command -v {shlex.quote(python)} >/dev/null && {shlex.quote(python)} -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'")
        found = re.fullmatch(r"(\d+)\.(\d+)", done.out.strip())
        if done.code != 0 or found is None:
            continue
        if (int(found[1]), int(found[2])) < OLDEST_PYTHON:
            raise ssh_errors.old_python(host.name, python, found[0], ".".join(map(str, OLDEST_PYTHON)))
        return python
    raise ssh_errors.no_python(host.name, asked or "python3")


def open_slot(host: SshHost, target: Any, name: str) -> Slot:
    """The slot of an address: its path, else `embarq/<name>` in the user's home."""
    folder = target.path or "embarq/" + (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model")
    if folder.startswith("-"):
        folder = "./" + folder
    return Slot(host, folder, find_python(host, target.python), target.engine)
