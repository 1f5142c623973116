"""Artifacts on real aarch64 code: the runner's one file, Python and the engines' own aarch64 wheels in an arm64 Debian under qemu-user.

The host's runs of the same artifact are the reference. Times and peak memory mean nothing under emulation and are not looked at.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np
import pytest

import sdk
from tests import linux_artifacts as made
from tests.data import ROOT
from tests.userland import Machine, userland

pytestmark = pytest.mark.long

FAMILY = "resnet"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    here = Machine(userland())
    yield here
    here.close()


@pytest.fixture(scope="module")
def net() -> tuple[sdk.model.Model, np.ndarray]:
    """A small ResNet and inputs for it [n, 1, 3, 32, 32]."""
    torch = pytest.importorskip("torch")
    from tests.torch_nets import FAMILIES

    family = FAMILIES[FAMILY]
    return sdk.load(family.net(), example=torch.zeros(family.shape)), family.samples(40)[:, None]


def compiled(net: tuple[sdk.model.Model, np.ndarray], engine: str, precision: str, folder: Path, device: str = "rpi-4b") -> sdk.Artifact:
    """Compiled and proved on this computer, whatever int8 costs: here only the two machines are compared."""
    work, inputs = net
    plan = sdk.plan(device, work, backend=engine, precision=precision, threads=1, calibration=list(inputs[:32]), accuracy_drop_points=100)
    artifact = sdk.compile(plan)
    artifact.save(folder)
    return artifact


@pytest.mark.parametrize(
    ("engine", "precision"), [("onnx", "float32"), ("onnx", "int8"), ("onnx", "dynamic-int8"), ("litert", "float32"), ("litert", "int8"),
                              ("native", "float32"), ("native", "int8")]
)
def test_an_artifact_gives_there_what_it_gives_here(machine, net, tmp_path, engine, precision):
    artifact = compiled(net, engine, precision, tmp_path / "artifact")
    there = machine.put(tmp_path / "artifact", f"{engine}-{precision}")
    code, report, told = machine.runner("verify", there)
    assert (code, report["ok"]) == (0, True), told
    tolerance = artifact.manifest["golden"]["tolerance"]
    fresh = [np.ascontiguousarray(x) for x in net[1][32:36]]  # neither golden nor calibrated on
    with artifact.flash("local") as session:
        want = np.array([session.run(x) for x in fresh])
    have = np.array(machine.served(there, fresh))
    assert have.shape == want.shape and np.ptp(want) > 0
    assert np.abs(have - want).max() <= tolerance * np.abs(want).max()
    if (engine, precision) == ("native", "int8"):
        assert tolerance == 0 and have.tobytes() == want.tobytes()


@pytest.fixture(scope="module")
def executorch_runner(machine: Machine) -> str:
    """The path there of a program on the C++ runtime of executorch's aarch64 wheel: its Python wants torch, 427 MB."""
    from sdk.backends.firmware.toolchain import zig_binary

    wheel, program = machine.root / "opt/embarq/executorch", machine.folder / "executorch_runner"
    includes = [f"-I{wheel}/include", f"-I{wheel}/include/executorch/runtime/core/portable_type/c10", "-DC10_USING_CUSTOM_GENERATED_MACROS"]
    libraries = [f"-lexecutorch{part}" for part in ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool")]
    link = ["-Wl,--no-as-needed", f"-L{wheel}/lib", *libraries, "-Wl,--allow-shlib-undefined", "-Wl,-rpath,/opt/embarq/executorch/lib"]
    flags = ["-target", "aarch64-linux-gnu.2.31", "-mcpu=generic", "-std=c++17", "-O2", "-w", "-fno-sanitize=undefined"]
    source = ROOT / "tests" / "executorch_runner.cpp"
    subprocess.run([str(zig_binary()), "c++", *flags, *includes, str(source), *link, "-o", str(program)], check=True, capture_output=True)
    return machine.inside("executorch_runner")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_executorch_program_gives_there_what_it_gives_here(machine, net, executorch_runner, tmp_path, precision):
    artifact = compiled(net, "executorch", precision, tmp_path / "artifact")
    there = machine.put(tmp_path / "artifact", f"executorch-{precision}") + f"/{artifact.manifest['entry']}"
    fresh = [np.ascontiguousarray(x) for x in net[1][32:36]]
    with artifact.flash("local") as session:
        want = np.array([session.run(x) for x in fresh])
    done = machine.program(executorch_runner, there, stdin=b"".join(x.tobytes() for x in fresh))
    assert done.returncode == 0, done.stderr.decode()[-500:]
    have = np.frombuffer(done.stdout, np.float32).reshape(want.shape)
    assert np.ptp(want) > 0 and np.abs(have - want).max() <= artifact.manifest["golden"]["tolerance"] * np.abs(want).max()


def test_the_machine_is_what_it_says(machine, net, tmp_path):
    compiled(net, "onnx", "float32", tmp_path / "artifact")
    code, info, told = machine.runner("info", machine.put(tmp_path / "artifact", "info"))
    assert (code, info["machine"], info["engine"]) == (0, "aarch64", "onnx"), told
    assert info["python"].startswith("3.11") and info["versions"]["onnxruntime"]


def test_a_jetson_artifact_falls_back_there_and_says_so(machine, net, tmp_path):
    """No TensorRT in the userland, as on a board without JetPack: ONNX Runtime's CPU runs it, proved."""
    compiled(net, "tensorrt", "float16", tmp_path / "artifact", "jetson-nano")
    there = machine.put(tmp_path / "artifact", "jetson")
    code, report, told = machine.runner("verify", there)
    assert (code, report["ok"]) == (0, True), told
    code, info, _ = machine.runner("info", there)
    assert code == 0 and "ONNX Runtime on the CPU runs the model instead of TensorRT" in info["engine_note"]


def test_wrong_golden_vectors_are_found_there_too(machine, tmp_path):
    good, bad = made.onnx_bundle(), made.spoil(made.onnx_bundle())
    codes = []
    for name, bundle in (("good", good), ("bad", bad)):
        there = machine.put(made.saved(tmp_path / name, bundle), name)
        codes.append(machine.runner("verify", there)[0])
    assert codes == [0, 5]


def test_an_artifact_for_this_computer_is_refused_there(machine, tmp_path):
    there = machine.put(made.saved(tmp_path / "x86", made.onnx_bundle(machine="x86_64")), "x86")
    code, _, told = machine.runner("verify", there)
    assert code == 6 and "was made for x86_64 and this machine is aarch64" in told


@pytest.mark.parametrize(
    ("patched", "value", "says"),
    [("os.geteuid", lambda: 1000, "needs root, for chroot"), ("shutil.which", lambda name: None, "needs dpkg"), ("sys.platform", "darwin", "needs Linux")],
)
def test_a_computer_that_cannot_says_why_and_changes_nothing(tmp_path, monkeypatch, capsys, patched, value, says):
    """The script's exit code 3 is what skips these tests."""
    path = ROOT / "scripts" / "arm-userland"
    loader = SourceFileLoader("arm_userland", str(path))
    script = module_from_spec(spec_from_loader("arm_userland", loader))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "arm_userland", script)  # dataclasses look their module up there
    loader.exec_module(script)
    monkeypatch.setattr(patched, value)
    monkeypatch.setattr("sys.argv", ["arm-userland", "arm64", str(tmp_path / "new")])
    assert script.main() == script.UNAVAILABLE
    told = capsys.readouterr().err
    assert told.startswith("arm-userland: ") and says in told and told.count("\n") == 1
    assert not (tmp_path / "new").exists()
