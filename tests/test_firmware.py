"""From a plan to a proven firmware: what was predicted is what is there, on every board, with both compilers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sdk
from firmware_bridge.emulator import EmulatedBoard
from sdk.backends.firmware import images
from sdk.backends.firmware.emit import identifier
from sdk.errors import DoesNotFit, ToolError, VerificationFailed
from sdk.graph.interpreter import run
from targets.device import device_names, load_device
from tests.data import shared
from tests.small_models import float_cnn, int8_cnn, samples

CORTEX_M = [n for n in device_names() if load_device(n).kind == "mcu" and load_device(n).family]
#: One board for each core; the rest are in the long tier.
EVERYDAY = ("stm32f405", "stm32f746", "nrf5340", "rp2040")
MLPERF = ("ad01_autoencoder_int8", "kws01_dscnn_int8", "ic01_resnet8_int8", "vww01_mbv1_025_int8")


def boards() -> list[object]:
    return [n if n in EVERYDAY else pytest.param(n, marks=pytest.mark.long) for n in CORTEX_M]


def prove(plan: sdk.Plan) -> sdk.Artifact:  # type: ignore[name-defined]
    """Compile, run on the emulated board, and hold every promise of the plan against it."""
    artifact = sdk.compile(plan)
    elf = artifact.files["firmware/model.elf"]
    with artifact.flash("emulator") as session:
        report = session.verify()
        assert report.ok and report.bytes_equal == report.bytes_compared > 0
        stack = session.emulated.stack_peak_bytes()
    assert 0 < stack <= plan.stack_bytes <= plan.stack_reserved_bytes
    assert observed_arena(plan, artifact) == plan.arena_bytes
    predicted, real = plan.flash_bytes, artifact.manifest["cost"]["flash_bytes"]
    assert abs(predicted - real) <= 0.01 * real, f"predicted {predicted}, real {real}"
    assert elf[:4] == b"\x7fELF"
    return artifact


def observed_arena(plan: sdk.Plan, artifact: sdk.Artifact) -> tuple[int, ...]:  # type: ignore[name-defined]
    """For each region, the bytes that an inference really touches, from the arena's start."""
    from firmware_bridge.emulator import EmulatorLink
    from sdk.session import BoardSession, Session

    board = EmulatedBoard(artifact.device, artifact.elf(), watch=True)
    with Session(artifact, BoardSession(EmulatorLink(board)), board) as session:
        session.run(*artifact.golden.inputs[0])
        return board.arena_peak_bytes()


@pytest.mark.parametrize("name", boards())
def test_small_model_is_proved_on_every_board(name: str) -> None:
    prove(sdk.plan(name, int8_cnn()))


@pytest.mark.parametrize("model", [pytest.param(m, marks=[] if m.startswith("ad") else [pytest.mark.long]) for m in MLPERF])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "stm32l4r5" else [pytest.mark.long]) for n in CORTEX_M])
def test_mlperf_tiny_is_proved_on_every_board(name: str, model: str) -> None:
    plan = sdk.plan(name, str(shared(f"mlperf_tiny/models/{model}.tflite")))
    if not plan.fits:
        with pytest.raises(DoesNotFit):
            sdk.compile(plan)
        return
    prove(plan)


def test_float_model_agrees_within_the_tolerance() -> None:
    graph = float_cnn()
    artifact = sdk.compile(sdk.plan("stm32f405", graph))
    with artifact.flash("emulator") as session:
        assert session.verify().largest_difference < 1e-5
        x = samples(graph, 1)
        wanted = run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
        np.testing.assert_allclose(session.run(x), wanted, atol=1e-5)


def test_real_inputs_are_quantised_and_results_come_back_real() -> None:
    graph = float_cnn()
    artifact = sdk.compile(sdk.plan("stm32f405", graph, calibration=samples(graph)))
    x = samples(graph, 1)
    with artifact.flash("emulator") as session:
        found = session.run(x)
    wanted = run(graph, {graph.inputs[0]: x})[graph.outputs[0]]
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 0.1


def test_builds_are_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sdk.compile(sdk.plan("stm32f405", int8_cnn()))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    second = sdk.compile(sdk.plan("stm32f405", int8_cnn()))
    assert first.files == second.files
    assert first.manifest == second.manifest


def test_both_compilers_take_the_code_without_a_warning_and_agree() -> None:
    if not shutil.which("arm-none-eabi-gcc"):
        pytest.skip("needs arm-none-eabi-gcc (apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi)")
    artifact = sdk.compile(sdk.plan("stm32f405", int8_cnn(), compiler="gcc"))  # -Wall -Wextra -Wpedantic -Werror
    with artifact.flash("emulator") as session:
        assert session.verify().ok


def test_unknown_compiler_is_told() -> None:
    with pytest.raises(ToolError, match="choose zig or gcc"):
        sdk.compile(sdk.plan("stm32f405", int8_cnn(), compiler="tcc"))


def test_library_builds_into_a_project_of_ones_own(tmp_path: Path) -> None:
    """With the host's compiler and nothing of the board: the portable kernels of a core without extensions."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for this computer (apt-get install gcc)")
    graph = int8_cnn()
    artifact = sdk.compile(sdk.plan("rp2040", graph))
    for name, content in artifact.files.items():
        if name.startswith("library/"):
            path = tmp_path / name.removeprefix("library/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    x = artifact.golden.inputs[0][0]
    (tmp_path / "main.c").write_text(_host_main(identifier(artifact.name), x))
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-Iinclude", "-fsanitize=address,undefined"]
    sources = [str(p.relative_to(tmp_path)) for p in (tmp_path / "src").glob("*.c")]
    subprocess.run([compiler, *flags, *sources, "example/main.c", "-lm", "-o", "example.out"], cwd=tmp_path, check=True)
    subprocess.run(["./example.out"], cwd=tmp_path, check=True)
    subprocess.run([compiler, *flags, *sources, "main.c", "-lm", "-o", "golden.out"], cwd=tmp_path, check=True)
    printed = subprocess.run(["./golden.out"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert [int(v) for v in printed.split()] == artifact.golden.outputs[0][0].reshape(-1).tolist()


def _host_main(ident: str, x: np.ndarray) -> str:
    values = ",".join(map(str, x.reshape(-1).tolist()))
    return f"""#include <stdio.h>
#include <string.h>
#include "{ident}.h"
static const int8_t input[] = {{{values}}};
static uint8_t arena[{ident.upper()}_ARENA_0_BYTES] __attribute__((aligned(16)));
int main(void)
{{
    const embarq_memory memory = {{{{arena, 0, 0, 0}}}};
    memcpy(embarq_at(&memory, {ident}_model.inputs[0].ref), input, sizeof input);
    embarq_run(&{ident}_model, &memory);
    const int8_t *output = embarq_at(&memory, {ident}_model.outputs[0].ref);
    for (uint32_t i = 0; i < {ident}_model.outputs[0].size_bytes; i++) {{
        printf("%d ", output[i]);
    }}
    return 0;
}}
"""


def test_a_wrong_weight_on_the_board_is_found_and_the_layer_named() -> None:
    """The proof can fail: the depthwise layer's constants are changed in the firmware."""
    plan = sdk.plan("stm32f405", int8_cnn())
    artifact = sdk.compile(plan)
    step = next(s for s in plan.steps if s.op == "depthwise_conv2d")
    weights = max(step.call.constants.values(), key=lambda a: a.nbytes)
    elf = bytearray(artifact.files["firmware/model.elf"])
    at = bytes(elf).find(weights.tobytes())
    assert at > 0
    for index in range(at, at + weights.nbytes):
        elf[index] ^= 0x10
    broken = sdk.artifact.Artifact(artifact.manifest, {**artifact.files, "firmware/model.elf": bytes(elf)}, artifact.device)
    with pytest.raises(VerificationFailed, match=step.node):
        broken.flash("emulator")


def test_another_artifacts_firmware_is_refused() -> None:
    one, other = (sdk.compile(sdk.plan("stm32f405", int8_cnn(seed))) for seed in (0, 3))
    mixed = sdk.artifact.Artifact(one.manifest, {**one.files, "firmware/model.elf": other.elf()}, one.device)
    with pytest.raises(VerificationFailed, match="another plan"):
        mixed.flash("emulator")


def test_images_hold_the_same_bytes(tmp_path: Path) -> None:
    from intelhex import IntelHex

    artifact = sdk.compile(sdk.plan("rp2040", int8_cnn()))
    flat = artifact.files["firmware/model.bin"]
    (tmp_path / "m.hex").write_bytes(artifact.files["firmware/model.hex"])
    hexed = IntelHex(str(tmp_path / "m.hex"))
    start = hexed.minaddr()
    assert hexed.tobinarray(start=start, size=len(flat)).tobytes() == flat
    blocks = artifact.files["firmware/model.uf2"]
    assert len(blocks) % 512 == 0
    payload = b"".join(blocks[i + 32 : i + 288] for i in range(0, len(blocks), 512))
    assert payload[: len(flat)] == flat
    assert int.from_bytes(blocks[12:16], "little") == start


def test_boards_without_start_up_code_get_the_library() -> None:
    artifact = sdk.compile(sdk.plan("esp32-c3", int8_cnn()))
    assert not any(name.startswith("firmware/") for name in artifact.files)
    assert any(name.startswith("library/src/") for name in artifact.files)


def test_too_large_is_refused_with_exact_bytes_and_a_mend() -> None:
    plan = sdk.plan("stm32f405", int8_cnn(0, 200, 16))
    assert not plan.fits and plan.mends
    with pytest.raises(DoesNotFit, match=rf"{plan.shortfall[0].over_bytes:,} bytes"):
        sdk.compile(plan)


def test_sections_are_counted_by_kind(tmp_path: Path) -> None:
    artifact = sdk.compile(sdk.plan("stm32f405", int8_cnn()))
    path = tmp_path / "model.elf"
    path.write_bytes(artifact.elf())
    sizes = images.sizes(path)
    assert sizes.arena == sum(artifact.manifest["cost"][k] for k in ("arena_bytes",))
    assert len(artifact.files["firmware/model.bin"]) >= sizes.flash - 64
