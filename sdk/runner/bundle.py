"""Reads an artifact's folder on the device: every hash checked, anything that is not for this machine refused.

Only the standard library, and files are hashed piece by piece: checking must not show in the engine's peak memory.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BundleRefused, EngineMissing, MachineRefused, VersionRefused

FORMAT = "embarq-artifact"
VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 16 << 20
PIECE = 1 << 20
REQUIRED = {"name": str, "backend": str, "files": dict, "inputs": list, "outputs": list, "golden": dict, "recipe": dict, "entry": str}
#: backend of the manifest -> engines that may open its file, the usual one first
ENGINES = {"onnx": ("onnx",), "litert": ("litert", "tflite-runtime"), "executorch": ("executorch",), "tensorrt": ("tensorrt",),
           "torch": ("torch",), "native": ("native",)}  # fmt: skip
MACHINES = {"arm64": "aarch64", "amd64": "x86_64", "armv6l": "armv6", "armv7l": "armv7", "armv8l": "armv7"}
#: Distributions that bring the same module under another name.
SAME = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}


@dataclass(frozen=True)
class Bundle:
    """An artifact whose hashes agree and that this machine can run."""

    folder: Path
    manifest: Mapping[str, Any]
    engine: str

    @property
    def entry(self) -> Path:
        """The file that the engine opens."""
        return self.folder / self.manifest["entry"]

    @property
    def threads(self) -> int:
        """Threads of the recipe, at least 1."""
        return max(int(self.manifest["recipe"].get("threads", 1)), 1)

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the engine."""
        return dict(self.manifest["recipe"].get("options") or {})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its own keys checked, no file hashed yet. Raises `BundleRefused` or `VersionRefused`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleRefused(f"{folder} is not an artifact: it has no {MANIFEST}; give the folder that `embarq compile` wrote")
    try:
        if path.stat().st_size > MANIFEST_LIMIT:
            raise BundleRefused(f"{path} is larger than {MANIFEST_LIMIT >> 20} MiB and is no manifest of ours; copy the artifact again")
        manifest = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleRefused(f"{path} is damaged ({error}); copy the artifact again") from error
    return _checked(manifest, path)


def _checked(manifest: Any, path: Path) -> dict[str, Any]:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleRefused(f"{path} is not the manifest of an embarq artifact; copy the artifact again")
    if manifest.get("version") != VERSION:
        raise VersionRefused(f"{path} has format version {manifest.get('version')!r} and this runner reads {VERSION}; use its own embarq's runner")
    if manifest.get("backend") in ("firmware", "library"):
        raise BundleRefused(f"{path} is for the microcontroller {manifest.get('device')}, not for a Linux engine; flash it from the host")
    for key, kind in REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise BundleRefused(f"{path} is damaged: {key!r} is missing or not a {kind.__name__}; copy the artifact again")
    if manifest["entry"] not in manifest["files"]:
        raise BundleRefused(f"{path} is damaged: its entry {manifest['entry']!r} is not among its files; copy the artifact again")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Every listed file is inside the folder and has the size and SHA-256 of the manifest. Raises `BundleRefused`."""
    for name, entry in manifest["files"].items():
        if not _is_inside(folder, name):
            raise BundleRefused(f"{folder} is refused: its manifest names {name!r}, which leaves the folder; get the artifact again from its maker")
        wanted = entry if isinstance(entry, dict) else {}
        if not isinstance(wanted.get("sha256"), str) or not isinstance(wanted.get("bytes"), int):
            raise BundleRefused(f"{folder} is damaged: its manifest gives no hash and size for {name!r}; copy the artifact again")
        _check_file(folder, name, wanted)


def _check_file(folder: Path, name: str, wanted: Mapping[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        raise BundleRefused(f"{folder} is damaged: {name} is missing; copy the artifact again")
    try:
        same = path.stat().st_size == wanted["bytes"] and file_sha256(path) == wanted["sha256"]
    except OSError as error:
        raise BundleRefused(f"cannot read {path}: {error.strerror}; check its permissions") from error
    if not same:
        raise BundleRefused(f"{folder} is damaged: {name} is not the file that was saved (hash mismatch); copy the artifact again")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def _is_inside(folder: Path, name: Any) -> bool:
    """True for a plain relative path whose every part, links resolved, stays below `folder`."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in parts or name == MANIFEST:
        return False
    try:
        return folder.resolve() in (folder / name).resolve().parents
    except (OSError, RuntimeError):
        return False


def machine() -> str:
    """This process's architecture: "aarch64", "armv7", "x86_64". A 32-bit Python under a 64-bit kernel is armv7, whatever uname says."""
    name = platform.machine().lower()
    name = MACHINES.get(name, name)
    narrow = struct.calcsize("P") == 4
    return {"aarch64": "armv7", "x86_64": "i686"}.get(name, name) if narrow else name


def check_machine(manifest: Mapping[str, Any]) -> None:
    """Raises `MachineRefused` when the artifact is for another architecture or needs a newer Python."""
    wanted, here = str(manifest.get("machine", "any")), machine()
    if wanted != "any" and MACHINES.get(wanted, wanted) != here:
        raise MachineRefused(
            f"{manifest['name']} was made for {wanted} and this machine is {here}; compile it for a device of this architecture or with a portable backend"
        )
    python = str((manifest.get("requires") or {}).get("python", "3.9"))
    if sys.version_info[:2] < version_key(python)[:2]:
        found = platform.python_version()
        raise MachineRefused(f"{manifest['name']} needs Python {python} and this is {found}; install a newer python3, or name one with ?python=")


def version_key(text: str) -> tuple[int, ...]:
    """(1, 32, 0) for "1.32.0", ">=1.32.0" or "1.32.0+cpu"; a pre-release counts as its release. At least two numbers."""
    numbers = [int(n) for n in re.findall(r"\d+", re.split(r"[+]|(?<=\d)(?:rc|a|b|\.?dev|\.?post)", text)[0])]
    return tuple(numbers + [0] * (3 - len(numbers)))


def installed(package: str) -> str | None:
    """Version of an installed distribution (or of one that brings the same module), None when there is none."""
    from importlib import metadata

    for name in SAME.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_requires(manifest: Mapping[str, Any], engine: str) -> None:
    """Raises `EngineMissing` for an absent package, `VersionRefused` for one older than the artifact was proved with."""
    requires = {"numpy": "", **(manifest.get("requires") or {})}
    if engine == "tflite-runtime":
        requires = {"numpy": "", "tflite-runtime": ""}
    packages = {name: str(version) for name, version in requires.items() if name != "python"}
    found = {name: installed(name) for name in packages}
    missing = [f"{name}=={packages[name]}" if packages[name][:1].isdigit() else name + packages[name] for name, version in found.items() if version is None]
    if missing:
        pip = f"{sys.executable} -m pip install {' '.join(missing)}"
        raise EngineMissing(f"{manifest['name']} needs {' and '.join(missing)}, not installed for {sys.executable}; there: {pip}")
    for name, version in found.items():
        if packages[name] and version_key(str(version)) < version_key(packages[name]):
            pip = f"{sys.executable} -m pip install {name}=={packages[name]}"
            raise VersionRefused(f"{manifest['name']} needs {name} {packages[name]} or newer and {version} is installed; there: {pip}")


def choose_engine(manifest: Mapping[str, Any], asked: str | None) -> str:
    """The engine of the manifest's backend, or the `asked` one when it opens the same file. Raises `BundleRefused`."""
    able = ENGINES.get(manifest["backend"])
    if able is None:
        raise BundleRefused(f"{manifest['name']} is for the engine {manifest['backend']!r} and this runner has {', '.join(ENGINES)}; use a newer embarq-run")
    if asked is not None and asked not in able:
        raise BundleRefused(f"{manifest['name']} is a file for {able[0]} and {asked} cannot open it; choose from {', '.join(able)}")
    return asked or able[0]


def check_accepts(manifest: Mapping[str, Any], engine: str | None = None) -> str:
    """The engine that will run the artifact here, judged by its manifest alone; raises when this machine cannot run it."""
    chosen = choose_engine(manifest, engine)
    check_machine(manifest)
    check_requires(manifest, chosen)
    return chosen


def open_bundle(folder: str, engine: str | None = None) -> Bundle:
    """The artifact of `folder`, checked whole: manifest, machine, packages, then every hash. Raises what those raise."""
    path = Path(folder)
    manifest = read_manifest(path)
    chosen = check_accepts(manifest, engine)
    check_files(path, manifest)
    return Bundle(path, manifest, chosen)
