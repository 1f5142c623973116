"""The C kernels of a training step compute what the interpreter says, within 1e-5 of the largest value, and write nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdk.graph import interpreter
from sdk.graph.ops import written
from sdk.graph.ops.training import OPS
from tests import training_cases
from tests.kernel_harness import Case, Emulated, Host, Result


def check(case: Case, result: Result) -> None:
    """Compare everything written with the interpreter. Stochastic rounding may turn out the other way for one weight in a hundred."""
    want = dict(zip(written(case.node), interpreter.compute(case.graph, case.node, case.values), strict=True))
    assert set(result.written) == set(want)
    for name, value in want.items():
        told = f"{name} of {case.call.function} for {case.node.op} {dict(case.node.attrs)}"
        got = result.written[name]
        if value.dtype == np.float32:
            smallest = 0.1 if case.node.op == "softmax_cross_entropy" and value.shape == (1,) else 1e-9  # a loss of 1e-8 is as good as none
            np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5 * float(np.abs(value).max(initial=smallest)), err_msg=told)
        elif value.dtype == np.int8:
            assert (got != value).mean() < 0.01 and np.abs(got.astype(int) - value).max() <= 1, told
            assert (value != case.values[name]).any(), told
        else:
            np.testing.assert_array_equal(got, value, err_msg=told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are compiled."""
    return tmp_path_factory.mktemp("training")


def test_on_this_computer(folder: Path) -> None:
    cases = training_cases.cases(training_cases.Maker(1))
    assert {case.node.op for case in cases} == {op.name for op in OPS}
    cases += [replace(case, apart=20) for case in cases if case.overlap is not None]  # a plan may leave more room than is asked for
    host = Host(cases, folder)
    for index, case in enumerate(cases):
        check(case, host.run(index))


def test_on_a_cortex_m4(folder: Path) -> None:
    cases = training_cases.cases(training_cases.Maker(2))
    board = Emulated(cases, folder)
    for index, case in enumerate(cases):
        check(case, board.run(index))


def test_instructions_of_the_layers_that_a_step_spends_its_time_in(folder: Path) -> None:
    """MobileNetV2-0.35's last blocks, 3x3 pixels: what makes a step at most twice an inference. Counted, so the same on every machine."""
    make, point = training_cases.Maker(3), training_cases.window(1, 1, 0, 1)
    same = {"stride": (1, 1), "dilation": (1, 1), "padding": ((1, 1), (1, 1))}
    x, wide, w = make.draw(1, 3, 3, 56), make.draw(1, 3, 3, 336), make.int8((336, 1, 1, 56))
    macs, taps = 9 * 56 * 336, 9 * 9 * 336
    asked = [
        (1.7, macs, make.case("train_conv2d", (x, w, make.draw(336)), **point, activation="relu6")),
        (1.65, macs, make.case("train_conv2d_grad", (wide, w), **point, size=(3, 3))),
        (3.3, macs, make.case("train_conv2d_update", (x, wide, make.draw(336, 1, 1, 56), training_cases.HYPER), **point)),
        (4.0, taps, make.case("train_depthwise", (wide, make.int8((1, 3, 3, 336), 3), make.draw(336)), **same, activation="relu6")),
        (4.0, taps, make.case("train_depthwise_grad", (wide, make.int8((1, 3, 3, 336), 3)), **same, size=(3, 3))),
    ]
    board = Emulated([case for _, _, case in asked], folder)
    for index, (most, work, case) in enumerate(asked):
        result = board.run(index)
        check(case, result)
        assert result.instructions <= most * work, f"{case.node.op}: {result.instructions / work:.2f} instructions a multiply-accumulate"
