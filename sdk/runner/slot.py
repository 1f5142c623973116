"""A model's folder on a device: versions side by side, `current` naming the one in use, the one before kept for going back.

    SLOT/versions/<id>/     artifacts, each whole (put there by a rename)
    SLOT/current            symbolic link to versions/<id>, replaced by a rename: at every moment it names one whole artifact
    SLOT/previous           the same for the artifact before
    SLOT/incoming/          uploads that are not finished
    SLOT/runner/<hash>.pyz  runners, one per release that put an artifact there

Only the standard library; each function returns {"current": id or None, "previous": id or None}.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from .bundle import MANIFEST
from .errors import BadRequest, MachineRefused

ID = re.compile(r"[0-9a-f]{16}")
CURRENT, PREVIOUS = "current", "previous"


def linked(slot: Path, link: str) -> str | None:
    """The version that "current" or "previous" names; None without one, or when what it named is gone."""
    try:
        name = os.path.basename(os.readlink(slot / link))
    except OSError:
        return None
    return name if ID.fullmatch(name) and has(slot, name) else None


def has(slot: Path, version: str) -> bool:
    """True when that version is there."""
    return (slot / "versions" / version / MANIFEST).is_file()


def state(slot: Path) -> dict[str, str | None]:
    """What the links name."""
    return {CURRENT: linked(slot, CURRENT), PREVIOUS: linked(slot, PREVIOUS)}


def _link(slot: Path, link: str, version: str) -> None:
    """Point a link elsewhere by rename(2): removing the old one first would leave a moment with none."""
    fresh = slot / (link + ".new")
    if fresh.is_symlink():
        fresh.unlink()
    os.symlink(f"versions/{version}", fresh)
    os.replace(fresh, slot / link)


def _unlink(slot: Path, link: str) -> None:
    if (slot / link).is_symlink():
        (slot / link).unlink()


def activate(slot: Path, version: str) -> dict[str, str | None]:
    """Let `current` name that version, keep the one before as `previous`, remove all others and unfinished uploads."""
    if not ID.fullmatch(version) or not has(slot, version):
        raise BadRequest(f"{slot} has no artifact {version!r}; flash it again")
    before = linked(slot, CURRENT)
    if before != version:
        if before is not None:
            _link(slot, PREVIOUS, before)
        _link(slot, CURRENT, version)
    _prune(slot)
    return state(slot)


def _prune(slot: Path) -> None:
    kept = state(slot).values()
    for folder in (slot / "versions").iterdir():
        if ID.fullmatch(folder.name) and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for part in (slot / "incoming").glob("*.tar.part"):
        part.unlink()


def roll_back(slot: Path) -> dict[str, str | None]:
    """Exchange `current` and `previous`. Raises `MachineRefused` when there is no artifact before."""
    before, now = linked(slot, PREVIOUS), linked(slot, CURRENT)
    if before is None or before == now:
        raise MachineRefused(f"{slot} keeps no earlier artifact; flash the one you want")
    _link(slot, CURRENT, before)
    if now is not None:
        _link(slot, PREVIOUS, now)
    return state(slot)


def discard(slot: Path, version: str) -> dict[str, str | None]:
    """Take away a version that was only tried; one that `current` or `previous` names stays."""
    if ID.fullmatch(version) and version not in state(slot).values():
        shutil.rmtree(slot / "versions" / version, ignore_errors=True)
    return state(slot)


def reject(slot: Path, version: str) -> dict[str, str | None]:
    """Take away a version that failed its proof, going back first when it is the current one and there is one to go back to."""
    if linked(slot, CURRENT) == version:
        if linked(slot, PREVIOUS) in (None, version):
            return state(slot)
        roll_back(slot)
    if linked(slot, PREVIOUS) in (version, linked(slot, CURRENT)):
        _unlink(slot, PREVIOUS)
    if ID.fullmatch(version):
        shutil.rmtree(slot / "versions" / version, ignore_errors=True)
    return state(slot)
