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
