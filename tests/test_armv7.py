"""Artifacts on real 32-bit ARM code, where no engine has a package: the native engine in an armhf Debian with numpy, under qemu-user.

The host's answers are the reference, in int8 to the byte. Times mean nothing under emulation and are not looked at.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sdk
from sdk.backends import native
from sdk.backends.firmware.build import write_files
from sdk.backends.firmware.toolchain import zig_binary
from sdk.backends.native.build import FLAGS, sources
from sdk.backends.native.layout import lay_out
from sdk.graph.interpreter import run as interpret
from sdk.planner.recipes import Recipe
from tests import linux_artifacts as made
from tests.userland import Machine, userland

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    here = Machine(userland("armhf"), "armhf")
    yield here
    here.close()


@pytest.fixture(scope="module")
def net() -> tuple[sdk.model.Model, np.ndarray]:
    """A small ResNet and inputs for it [n, 1, 3, 32, 32]."""
    torch = pytest.importorskip("torch")
    from tests.torch_nets import FAMILIES

    family = FAMILIES["resnet"]
    return sdk.load(family.net(), example=torch.zeros(family.shape)), family.samples(20)[:, None]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_artifact_gives_there_what_it_gives_here(machine, net, tmp_path, precision):
    work, x = net
    plan = sdk.plan("rpi-4b", work, backend="native", precision=precision, calibration=list(x[:16]), accuracy_drop_points=100)
    artifact = sdk.compile(plan)
    artifact.save(tmp_path / "artifact")
    there = machine.put(tmp_path / "artifact", precision)
    code, report, told = machine.runner("verify", there)
    assert (code, report.get("ok")) == (0, True), told
    fresh = [np.ascontiguousarray(a) for a in x[16:20]]
    with artifact.flash("local") as session:
        want = np.array([session.run(a) for a in fresh])
    have = np.array(machine.served(there, fresh))
    assert np.ptp(want) > 0 and np.abs(have - want).max() <= artifact.manifest["golden"]["tolerance"] * np.abs(want).max()
    if precision == "int8":
        assert have.tobytes() == want.tobytes()
    code, info, _ = machine.runner("info", there)
    assert (code, info["machine"], info["engine"]) == (0, "armv7", "native") and "onnxruntime" not in info["versions"]


def test_the_first_raspberrys_library_serves_where_there_is_no_newer_one(machine, net, tmp_path):
    work, x = net
    payload = native.emit(work, Recipe("native", "int8"), list(x[:16]), machines=("armv6",))
    graph = native.graph_of(work, "int8", list(x[:16]))
    vectors = [([x[16]], [np.asarray(interpret(graph, {graph.inputs[0]: x[16]})[graph.outputs[0]])])]
    manifest, files = made.bundle("native", f"payload/{payload.entry}", payload.files[payload.entry], vectors)
    files |= {f"payload/{name}": content for name, content in payload.files.items()}
    manifest["files"] = {name: made.file_entry(content) for name, content in files.items()}
    manifest["golden"]["tolerance"] = 0.0
    code, report, told = machine.runner("verify", machine.put(made.saved(tmp_path / "old", (manifest, files)), "old"))
    assert (code, report.get("bytes_equal")) == (0, vectors[0][1][0].nbytes), told


MAIN = """#include <stdio.h>
#include "model.h"

void embarq_native_run(uint8_t *arena, uint32_t first, uint32_t end);
static uint8_t arena[MODEL_ARENA_0_BYTES] __attribute__((aligned(16)));

int main(void)
{
    const embarq_tensor *in = model_model.inputs, *out = model_model.outputs;
    if (fread(arena + (in->ref & 0x0fffffffu), 1, in->size_bytes, stdin) != in->size_bytes) {
        return 1;
    }
    embarq_native_run(arena, 0, model_model.step_count);
    return fwrite(arena + (out->ref & 0x0fffffffu), 1, out->size_bytes, stdout) != out->size_bytes;
}
"""


def test_nothing_in_it_is_newer_than_the_first_raspberrys_processor(machine, net, tmp_path):
    """The same sources and flags as a program, on an emulated ARM1176, which has no instruction of later ones."""
    work, x = net
    graph = native.graph_of(work, "int8", list(x[:16]))
    files = sources(lay_out(graph)) | {"main.c": MAIN.encode()}
    write_files(tmp_path, files)
    parts = sorted(name for name in files if name.endswith((".c", ".S")))
    target = ("-target", "arm-linux-musleabihf", "-mcpu=arm1176jzf_s", "-static")
    subprocess.run([str(zig_binary()), "cc", *target, *FLAGS, *parts, "-lm", "-o", "model"], cwd=tmp_path, check=True, capture_output=True)
    emulator = machine.root / "usr/bin/qemu-arm-static"
    done = subprocess.run([emulator, "-cpu", "arm1176", Path("model")], input=x[17].tobytes(), cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == np.asarray(interpret(graph, {graph.inputs[0]: x[17]})[graph.outputs[0]]).tobytes()
