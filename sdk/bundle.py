"""The artifact's folder: written whole or not at all, and read only when every hash agrees. ARTIFACT.md is its specification."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sdk.errors import UsageError, VersionMismatch

FORMAT = "embarq-artifact"
VERSION = 1
MANIFEST = "manifest.json"
#: What a manifest must hold, and the type of each.
REQUIRED: Mapping[str, type] = {"format": str, "version": int, "name": str, "device": str, "backend": str, "files": dict, "inputs": list, "outputs": list}
_MANIFEST_LIMIT = 16 << 20


def canonical_json(value: Any) -> bytes:
    """JSON that is the same bytes for the same value: sorted keys, no NaN, a newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def file_entry(content: bytes) -> dict[str, Any]:
    """What the manifest says of one file."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def write_bundle(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write the bundle beside `folder`, then put it in place with a rename: an interrupted or failed write leaves nothing.

    An existing artifact is replaced; any other non-empty folder is refused. Raises `UsageError` (full disk, no permission).
    """
    if folder.exists() and not _replaceable(folder):
        raise UsageError(f"cannot save to {folder}: it holds something that is not an artifact; give a new or empty folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _write_error(folder, error) from error
    try:
        _write_files(aside / "new", {**files, MANIFEST: canonical_json(manifest)})
        if folder.exists():
            os.replace(folder, aside / "old")
        os.replace(aside / "new", folder)
    except OSError as error:
        raise _write_error(folder, error) from error
    finally:  # also when interrupted between the two renames: what was there comes back
        if not folder.exists() and (aside / "old").exists():
            os.replace(aside / "old", folder)
        shutil.rmtree(aside, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and (not any(folder.iterdir()) or (folder / MANIFEST).is_file())


def _write_files(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def _write_error(folder: Path, error: OSError) -> UsageError:
    if error.errno == errno.ENOSPC:
        return UsageError(f"cannot save to {folder}: the disk is full; free some space or choose another folder (nothing was left behind)")
    return UsageError(f"cannot save to {folder}: {error.strerror or error}; choose a folder you may write to (nothing was left behind)")


def read_bundle(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and every file it lists, each one's size and SHA-256 checked. Raises `UsageError` or `VersionMismatch`."""
    manifest = _read_manifest(folder)
    files = {}
    for name, entry in manifest["files"].items():
        files[name] = _read_file(folder, name, entry)
    return manifest, files


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir() or not path.is_file():
        raise UsageError(f"{folder} is not an artifact: it has no {MANIFEST}; make one with: embarq compile MODEL --device DEVICE -o {folder}")
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise UsageError(f"{path} is larger than {_MANIFEST_LIMIT >> 20} MiB and is no manifest of ours; compile the artifact again")
        manifest = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error}); compile the artifact again") from error
    return _checked(manifest, path)


def _checked(manifest: Any, path: Path) -> dict[str, Any]:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UsageError(f"{path} is not the manifest of an embarq artifact; compile the artifact again")
    if manifest.get("version") != VERSION:
        raise VersionMismatch(f"{path} has format version {manifest.get('version')!r} and this embarq reads {VERSION}; compile it again or upgrade embarq")
    for key, kind in REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise UsageError(f"{path} is damaged: {key!r} is missing or not a {kind.__name__}; compile the artifact again")
    return manifest


def _read_file(folder: Path, name: str, entry: Any) -> bytes:
    if not _is_inside(folder, name):
        raise UsageError(f"{folder} is refused: its manifest names {name!r}, which leaves the folder; get the artifact again from its maker")
    wanted = entry if isinstance(entry, dict) else {}
    if not isinstance(wanted.get("sha256"), str) or not isinstance(wanted.get("bytes"), int):
        raise UsageError(f"{folder} is damaged: its manifest gives no hash and size for {name!r}; compile the artifact again")
    path = folder / name
    if not path.is_file():
        raise UsageError(f"{folder} is damaged: {name} is missing; compile the artifact again")
    try:
        found = path.stat().st_size
        content = path.read_bytes() if found == wanted["bytes"] else b""
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    if found != wanted["bytes"] or hashlib.sha256(content).hexdigest() != wanted["sha256"]:
        raise UsageError(f"{folder} is damaged: {name} is not the file that was saved (hash mismatch); compile the artifact again")
    return content


def _is_inside(folder: Path, name: str) -> bool:
    """True for a plain relative path whose every part, links resolved, stays below `folder`."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in parts or name == MANIFEST:
        return False
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False
