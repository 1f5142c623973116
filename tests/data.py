"""Real models and data for the tests: found in one place, skipped with the reason where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared_root() -> Path:
    """The folder with the real models and data: $EMBARQ_SHARED, else `shared/data` beside the repository."""
    return Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent / "shared" / "data")


def shared(path: str) -> Path:
    """The real file `path`; skips the test when it is not on this machine."""
    found = shared_root() / path
    if not found.exists():
        pytest.skip(f"needs {path}: not in {shared_root()} (set EMBARQ_SHARED to the folder that has it)")
    return found
