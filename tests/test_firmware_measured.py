"""The measured figures belong to the C that is here, and there are some for every kernel a shipped board can run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sdk
from sdk.backends.firmware import measure
from sdk.backends.firmware.cycles import fitted
from sdk.planner.measured import footprint, isa_key, load_measured
from tests.data import shared
from tests.small_models import int8_cnn

COMPILERS = ("zig", "gcc")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_sizes_were_measured_from_the_c_that_is_here(compiler: str) -> None:
    assert load_measured()[compiler]["sources"] == measure.fingerprint(compiler), "sdk/kernels/measured.json is older than the C: run make measure"


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("device", measure.boards(), ids=lambda d: d.name)
def test_nothing_a_shipped_board_runs_is_an_estimate(device: measure.Device, compiler: str) -> None:
    functions = {name for name in measure.kernel_functions() if "dsp" in device.isa or "_dsp" not in name}
    assert len(functions) > 60
    assert set(load_measured()[compiler][isa_key(device.core)]) >= functions
    assert not footprint(device, compiler, sorted(functions)).estimated


def copy_of(folder: Path, root: Path) -> Path:
    for path in root.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def test_code_counts_and_comments_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measure.fingerprint("zig")
    monkeypatch.setattr(measure, "RUNTIME", copy_of(tmp_path, measure.RUNTIME))
    kernel = tmp_path / "kernels" / "dense_s8.c"
    code = kernel.read_text()
    kernel.write_text("/* Said otherwise. */\n" + code.replace("\n", "\n\n"))
    assert measure.fingerprint("zig") == before
    kernel.write_text(code + "\nint embarq_more(void);\n")
    assert measure.fingerprint("zig") != before


def test_flags_count_for_their_compiler_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: measure.fingerprint(name) for name in COMPILERS}
    monkeypatch.setattr(measure, "FLAGS", {**measure.FLAGS, "zig": "-O3"})
    assert [measure.fingerprint(name) == before[name] for name in COMPILERS] == [False, True]


# ---- cycles --------------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_the_rows_are_made_of() -> None:
    rows = [(macs, values, 1.5 * macs + 20 * values) for macs, values in ((1000, 10), (5000, 500), (300, 30))]
    assert fitted(rows) == (1.5, 20.0)


def test_the_fit_stays_above_zero() -> None:
    rows = [(macs, values, 4.0 * macs - 3.0 * values) for macs, values in ((900, 100), (4500, 500), (800, 30))]
    figures = fitted(rows)
    assert min(figures) == 0 and max(figures) > 0


@pytest.mark.parametrize("compiler", COMPILERS)
def test_cycles_of_the_kernels_that_small_nets_spend_their_time_in(compiler: str) -> None:
    for core, entries in load_measured()[compiler].items():
        if core in ("sources", "bases"):
            continue
        names = ("conv2d_s8_dsp", "conv2d_s8_dsp_relu", "depthwise_s8_dsp") if "dsp" in core else ("conv2d_s8", "depthwise_s8", "dense_s8")
        assert all(entries[f"embarq_{name}"]["cycles_per_mac"] > 0 for name in names)


@pytest.mark.parametrize("model", ["kws01_dscnn", *(pytest.param(m, marks=pytest.mark.long) for m in ("vww01_mbv1_025", "ic01_resnet8"))])
def test_the_estimated_latency_is_what_an_emulated_board_counts(model: str) -> None:
    plan = sdk.plan("stm32l4r5", str(shared(f"mlperf_tiny/models/{model}_int8.tflite")))
    with sdk.compile(plan).flash("emulator") as session:
        counted = session.profile().cycles_est
    assert counted is not None and abs(plan.cost.cycles - counted) <= 0.2 * counted


def test_a_plan_for_gcc_holds_its_flash_promise() -> None:
    if not shutil.which("arm-none-eabi-gcc"):
        pytest.skip("needs arm-none-eabi-gcc (apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi)")
    plan = sdk.plan("stm32f405", int8_cnn(), compiler="gcc")
    real = sdk.compile(plan).manifest["cost"]["flash_bytes"]
    assert not plan.estimated and abs(plan.flash_bytes - real) <= 0.01 * real
