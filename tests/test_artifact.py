"""The artifact's folder: written whole or not at all; a reader refuses whatever does not hold."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import sdk
from sdk.artifact import Artifact, open_artifact
from sdk.bundle import MANIFEST, read_bundle, write_bundle
from sdk.errors import EmbarqError, UsageError, VersionMismatch
from tests.small_models import int8_cnn


@cache
def artifact() -> Artifact:
    return sdk.compile(sdk.plan("stm32f405", int8_cnn()))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return artifact().save(tmp_path / "out")


def edit(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_saved_is_what_is_opened(saved: Path) -> None:
    again = sdk.open(saved)
    assert again.manifest == artifact().manifest
    assert again.files == artifact().files
    assert again.device == artifact().device
    for one, other in zip(again.golden.inputs, artifact().golden.inputs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_every_file_is_listed_and_nothing_tells_of_the_machine(saved: Path) -> None:
    there = {p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()}
    assert there == {MANIFEST, *artifact().manifest["files"]}
    home = str(Path.cwd()).encode()
    assert not [name for name in there if home in (saved / name).read_bytes()]


def test_saving_again_replaces_and_leaves_nothing_beside(saved: Path) -> None:
    artifact().save(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["out"]
    assert sdk.open(saved).manifest == artifact().manifest


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an artifact"):
        artifact().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_old_artifact(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="disk is full"):
        write_bundle(saved, {"format": "x"}, {"a": b"1"})
    monkeypatch.undo()
    assert sdk.open(saved).manifest == artifact().manifest
    assert [p.name for p in saved.parent.iterdir()] == ["out"]


def test_an_interrupt_between_the_renames_brings_the_old_one_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def replace(a: object, b: object) -> None:
        calls.append(a)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(a, b)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        artifact().save(saved)
    monkeypatch.undo()
    assert sdk.open(saved).manifest == artifact().manifest
    assert [p.name for p in saved.parent.iterdir()] == ["out"]


def test_no_artifact_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no manifest\.json"):
        sdk.open(tmp_path)


def test_a_changed_byte_is_refused(saved: Path) -> None:
    path = saved / "firmware" / "model.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"firmware/model.bin is not the file that was saved \(hash mismatch\)"):
        sdk.open(saved)


def test_a_missing_file_is_refused(saved: Path) -> None:
    (saved / "plan.json").unlink()
    with pytest.raises(UsageError, match=r"plan\.json is missing"):
        sdk.open(saved)


def test_another_version_is_never_guessed_at(saved: Path) -> None:
    edit(saved, version=2)
    with pytest.raises(VersionMismatch, match="format version 2") as error:
        sdk.open(saved)
    assert error.value.exit_code == 8


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "c:x", "a\\b", "", MANIFEST, "a\0b"])
def test_a_path_that_leaves_the_folder_is_refused(saved: Path, name: str) -> None:
    (saved.parent / "x").write_bytes(b"secret")
    manifest = json.loads((saved / MANIFEST).read_text())
    edit(saved, files={**manifest["files"], name: {"sha256": "0" * 64, "bytes": 6}})
    with pytest.raises(UsageError, match="leaves the folder"):
        sdk.open(saved)


def test_a_link_out_of_the_folder_is_refused(saved: Path) -> None:
    outside = saved.parent / "plan.json"
    shutil.move(saved / "plan.json", outside)
    (saved / "plan.json").symlink_to(outside)
    with pytest.raises(UsageError, match="leaves the folder"):
        sdk.open(saved)


@pytest.mark.parametrize("key", ["name", "device", "backend", "files", "inputs", "outputs", "golden", "steps", "cost"])
def test_a_manifest_without_a_key_is_refused(saved: Path, key: str) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    del manifest[key]
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError):
        sdk.open(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x80", '{"format": 3}', "[" * 100_000])
def test_garbage_for_a_manifest_is_refused(saved: Path, text: str) -> None:
    (saved / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError):
        sdk.open(saved)


def _mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case _:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
    return bytes(data)


def fuzz(folder: Path, count: int) -> None:
    """Mutate the manifest; the reader may only accept it or refuse with a sentence."""
    rng, original = random.Random(7), (folder / MANIFEST).read_bytes()
    for _ in range(count):
        (folder / MANIFEST).write_bytes(_mutated(original, rng))
        try:
            _ = open_artifact(folder).golden
        except EmbarqError as error:
            assert "\n" not in str(error)


def test_a_damaged_manifest_never_ends_in_a_traceback(saved: Path) -> None:
    fuzz(saved, 150)


@pytest.mark.long
def test_many_damaged_manifests(saved: Path) -> None:
    fuzz(saved, 5000)


def test_a_board_of_ones_own_travels_with_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "base-board"\nextends = "stm32f405"\n')
    (tmp_path / "mine.toml").write_text('name = "my-board"\nextends = "base.toml"\n')
    made = sdk.compile(sdk.plan(str(tmp_path / "mine.toml"), int8_cnn()))
    made.save(tmp_path / "out")
    for name in ("mine.toml", "base.toml"):
        (tmp_path / name).unlink()
    again = sdk.open(tmp_path / "out")
    assert again.device.name == "my-board"
    with again.flash("emulator") as session:
        assert session.verify().ok


def test_pickles_are_refused(saved: Path) -> None:
    manifest, files = read_bundle(saved)
    path = saved / "golden" / "0_input_0.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    from sdk.bundle import file_entry

    edit(saved, files={**manifest["files"], "golden/0_input_0.npy": file_entry(path.read_bytes())})
    assert files
    with pytest.raises(UsageError, match=r"not a readable \.npy"):
        _ = sdk.open(saved).golden
