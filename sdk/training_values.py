"""The values that a microcontroller has learned: pulled, pushed, and kept in an artifact that brings them to other boards.

`sdk.session.Session.pull`, `.push`, `.forget` and `.trained_artifact` are these functions. An artifact with trained values is the one that was
trained, its firmware untouched, and a file for each variable: whoever opens a session with it gives them to a board that has none.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import DataError, UsageError, VersionMismatch
from sdk.golden import npy_array, npy_bytes

if TYPE_CHECKING:
    from firmware_bridge.training import Kept
    from sdk.artifact import Artifact
    from sdk.session import Session

NUMPY = {"float32": "<f4", "int8": "i1", "int16": "<i2", "int32": "<i4"}
Progress = Callable[[str], None]


def learns(session: Session) -> Mapping[str, Any]:
    """The manifest's entry on training. Raises `UsageError` for an artifact made for inference only."""
    if "training" not in session.artifact.manifest:
        raise UsageError(
            f"{session.artifact.name} was compiled for inference only; compile it with training=sdk.Training(...) (or --train) to let it learn"
        )
    return dict(session.artifact.manifest["training"])


def pull(session: Session, everything: bool = False) -> dict[str, np.ndarray]:
    """The values on the board by the names the plan gave them: see `Session.pull`."""
    return {
        row["name"]: np.frombuffer(session.board.read_variable(i), NUMPY[row["dtype"]]).reshape(row["shape"]).copy()
        for i, row in enumerate(_rows(session))
        if everything or _learnt(row)
    }


def push(session: Session, values: Mapping[str, Any]) -> None:
    """Put values into the board's variables: see `Session.push`."""
    rows = {row["name"]: (i, row) for i, row in enumerate(_rows(session))}
    ready = [(rows[name][0], _fitting(rows[name][1], value)) for name, value in values.items() if _known(name, rows)]
    for index, array in ready:
        session.board.write_variable(index, array.tobytes())


def _known(name: str, rows: Mapping[str, Any]) -> bool:
    if name not in rows:
        raise DataError(f"the board has no variable {name}; it has {', '.join(rows)}")
    return True


def _fitting(row: Mapping[str, Any], value: Any) -> np.ndarray:
    array = np.asarray(value)
    if list(array.shape) != list(row["shape"]):
        raise DataError(f"variable {row['name']} was given {list(array.shape)} and has {list(row['shape'])}; reshape it")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"the values for {row['name']} hold NaN or infinity; leave them out")
    if not np.can_cast(array.dtype, np.dtype(row["dtype"]), "same_kind"):
        raise DataError(f"variable {row['name']} was given {array.dtype} and holds {row['dtype']}; convert them first")
    return np.ascontiguousarray(array, NUMPY[row["dtype"]])


def _rows(session: Session) -> list[Mapping[str, Any]]:
    """The manifest's variables, in the firmware's order. Raises `VersionMismatch` when the firmware has others."""
    rows, count = list(learns(session)["variables"]), session.board.train_info().variable_count
    if len(rows) != count:
        raise VersionMismatch(f"the firmware on {session.board.name} has {count} variables and this artifact {len(rows)}; flash this artifact's firmware")
    return rows


def _learnt(row: Mapping[str, Any]) -> bool:
    return not row.get("momentum") and row.get("part") != "hyper"


def forget(session: Session, everything: bool = False) -> Kept:
    """Drop what was learned: see `Session.forget`."""
    learns(session)
    return session.board.forget(everything)


# -- in an artifact ----------------------------------------------------------------------------------------------------


def trained_artifact(session: Session, progress: Progress | None = None) -> Artifact:
    """The session's artifact with the board's values beside it: see `Session.trained_artifact`."""
    from sdk.bundle import file_entry

    files = dict(session.artifact.files)
    for index, (name, value) in enumerate(pull(session, everything=True).items()):
        if progress:
            progress(f"pulling {name}")
        files[_file(index)] = npy_bytes(value)
    manifest = {
        **session.artifact.manifest, "trained": {"variables": len(_rows(session))},
        "files": {name: file_entry(content) for name, content in sorted(files.items())},
    }  # fmt: skip
    return replace(session.artifact, manifest=manifest, files=files)


def bring(session: Session) -> None:
    """Give the artifact's trained values, where it has any, to a board that has learned nothing yet, and commit them where it can."""
    if "trained" not in session.artifact.manifest:
        return
    info = session.board.train_info()
    if info.sequence or info.changed:
        return
    for index, data in enumerate(_brought(session)):
        session.board.write_variable(index, data)
    if info.can_commit:
        session.board.commit()


def take_back(session: Session) -> None:
    """Undo `bring` on a board that cannot commit, so that a proof may begin from the firmware's values: the artifact has them still."""
    info = session.board.train_info()
    if "trained" not in session.artifact.manifest or info.can_commit or not info.changed:
        return
    if all(session.board.variable(i).crc == zlib.crc32(data) for i, data in enumerate(_brought(session))):
        session.board.forget()


def _brought(session: Session) -> list[bytes]:
    """The bytes of every variable in the artifact, in the firmware's order. Raises `DataError` for a file that does not fit."""
    artifact = session.artifact
    try:
        return [_fitting(row, npy_array(artifact.files[_file(i)], _file(i))).tobytes() for i, row in enumerate(_rows(session))]
    except KeyError as error:
        raise DataError(f"the artifact of {artifact.name} lacks {error.args[0]}, which holds trained values; train it again") from error


def _file(index: int) -> str:
    return f"trained/{index}.npy"
