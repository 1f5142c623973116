"""What kernels ask for: the C answers are right, tight, and the same from every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdk.errors import ToolError
from sdk.graph import interpreter
from sdk.kernels import sizing
from sdk.kernels.base import Call
from sdk.kernels.geometry import flatten_pointwise, lay_down, merge
from sdk.kernels.sizing import Window, ask
from tests import kernel_cases
from tests.kernel_harness import DSP, Case, Emulated, Host

POINTWISE = Window(1, 5, 7, 8, 5, 7, 16, 1, 1, 1, 1, 1, 1, 0, 0)
SAME_3X3 = Window(1, 32, 32, 16, 32, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1)


def test_scratch_formulas() -> None:
    assert ask("embarq_conv2d_s8_dsp_scratch_bytes", SAME_3X3) == 6 * 144
    assert ask("embarq_conv2d_s8_dsp_scratch_bytes", POINTWISE) == 6 * 8
    first_layer = Window(1, 32, 32, 3, 32, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1)
    assert ask("embarq_conv2d_s8_dsp_scratch_bytes", first_layer) == 6 * 28 + 3 * 4 + 28
    assert ask("embarq_depthwise_s8_dsp_scratch_bytes", SAME_3X3, 0) == 34 * 24
    assert ask("embarq_depthwise_s8_dsp_scratch_bytes", SAME_3X3, 2) == 34 * 24 + 2 * 32 * 16


def test_overlap_distances_of_known_layers() -> None:
    pointwise = flatten_pointwise(POINTWISE)
    assert pointwise.values()[:7] == (1, 1, 35, 8, 1, 35, 16)
    # 11 blocks of 3, then 2 single pixels: when the last but one ends, 34 * 16 are written and pixel 34 is still to be read
    assert ask("embarq_conv2d_s8_dsp_overlap_bytes", pointwise) == 34 * 16 - 34 * 8
    # as many channels out as in: a block's place is free when it is written
    assert ask("embarq_conv2d_s8_dsp_overlap_bytes", Window(1, 1, 35, 8, 1, 35, 8, 1, 1, 1, 1, 1, 1, 0, 0)) == 0
    # the row above and a pixel to the left are still to be read; two rows where rows are read again for other channels
    assert ask("embarq_raster_overlap_bytes", SAME_3X3, 1, 1) == (32 + 2) * 16
    assert ask("embarq_depthwise_s8_dsp_overlap_bytes", SAME_3X3, 0) == 2 * 32 * 16


def test_rows_are_kept_where_that_lets_the_output_lie_on_the_input() -> None:
    assert ask("embarq_depthwise_s8_dsp_kept_rows", SAME_3X3) == 2
    assert ask("embarq_depthwise_s8_dsp_overlap_bytes", SAME_3X3, 2) == 0
    three_rows = Window(1, 3, 32, 16, 3, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1)  # of three rows two would be kept: nothing is saved
    strided = Window(1, 32, 32, 16, 16, 16, 16, 3, 3, 2, 2, 1, 1, 0, 0)  # leaves its input behind anyway
    growing = Window(1, 32, 32, 16, 34, 34, 16, 3, 3, 1, 1, 1, 1, 2, 2)  # would run into rows not yet copied
    assert [ask("embarq_depthwise_s8_dsp_kept_rows", w) for w in (three_rows, strided, growing)] == [0, 0, 0]


def overlapping(cases: list[Case]) -> list[Case]:
    """Those whose output really lies on memory that is still to be read when it is moved 4 bytes further."""
    return [c for c in cases if c.overlap == 0 and c.call.overlap[0] > 8 - c.graph["x"].size_bytes]


@pytest.mark.parametrize("machine", ["host", "board"])
def test_overlap_distances_are_not_much_too_large(machine: str, tmp_path: Path) -> None:
    """Four bytes closer than a kernel allows, most convolutions overwrite what they still need: the distances are not just safe."""
    make = kernel_cases.Maker(4)
    isa = frozenset() if machine == "host" else DSP
    cases = [nearer(c) for c in overlapping(list(kernel_cases.convolutions(make, "int8", isa))) if c.graph["y"].shape[1] > 2]
    runner = Host(cases, tmp_path) if machine == "host" else Emulated(cases, tmp_path)
    broken = 0
    for index, case in enumerate(cases):
        try:
            broken += not np.array_equal(runner.run(index).output, interpreter.run(case.graph, case.values)["y"])
        except AssertionError:
            broken += 1
    assert broken >= len(cases) // 2


def nearer(case: Case) -> Case:
    """The same case, its input 8 bytes nearer than its kernel allows (the harness rounds up by up to 3)."""
    call = case.call
    moved = Case(case.graph, case.values, case.isa, case.overlap)
    changed = Call(call.node, call.function, call.struct, call.fields, call.constants, call.scratch_bytes, {0: call.overlap[0] - 8}, call.sources)
    moved.__dict__["call"] = changed
    return moved


def test_geometry_helpers() -> None:
    assert merge((2, 3, 4), [12, 4, 1]) == ([24], [[1]])
    assert merge((2, 1, 4), [4, 4, 1], [0, 0, 1]) == ([2, 4], [[4, 1], [0, 1]])
    assert lay_down(Window(1, 30, 1, 8, 21, 1, 8, 10, 1, 1, 1, 1, 1, 0, 0)).values() == (1, 1, 30, 8, 1, 21, 8, 1, 10, 1, 1, 1, 1, 0, 0)
    assert lay_down(SAME_3X3) is SAME_3X3


def test_runs_at_the_same_time_share_a_cold_cache(tmp_path: Path) -> None:
    program = (
        "import sys, platformdirs; platformdirs.user_cache_dir = lambda *a, **k: sys.argv[1]\n"
        "from sdk.kernels.sizing import Window, ask\n"
        "print(ask('embarq_depthwise_s8_dsp_scratch_bytes', Window(1, 32, 32, 16, 32, 32, 16, 3, 3, 1, 1, 1, 1, 1, 1), 0))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [run.communicate()[0].strip() for run in runs] == ["816"] * 4
    assert len([p for p in tmp_path.iterdir() if p.suffix in (".so", ".dll")]) == 1
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_without_a_compiler_the_mend_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_compilers", lambda: iter(()))
    with pytest.raises(ToolError, match=r"needs a C compiler.*embarq\[firmware\]"):
        sizing._build(sizing.RUNTIME / "kernels" / "sizing.c", tmp_path / "sizing.so")
