"""The C kernels compute what the interpreter says: every byte for integers, within rounding for float32.

Inputs and outputs overlap exactly as far as the kernel allows, between guard bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdk.graph import interpreter
from sdk.kernels.table import TABLE
from tests import kernel_cases
from tests.kernel_harness import Case, Emulated, Host, Result


def check(case: Case, result: Result) -> None:
    """Compare with the interpreter."""
    want = interpreter.run(case.graph, case.values)["y"]
    told = f"{case.call.function} for {case.node.op} {dict(case.node.attrs)}"
    if want.dtype == np.float32:
        np.testing.assert_allclose(result.output, want, rtol=2e-5, atol=2e-5, err_msg=told)
    else:
        np.testing.assert_array_equal(result.output, want, err_msg=told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are compiled."""
    return tmp_path_factory.mktemp("kernels")


def test_portable_kernels_on_this_computer(folder: Path) -> None:
    cases = kernel_cases.portable(kernel_cases.Maker(1))
    host = Host(cases, folder)
    for index, case in enumerate(cases):
        check(case, host.run(index))


def test_portable_kernels_on_a_cortex_m4(folder: Path) -> None:
    cases = kernel_cases.portable(kernel_cases.Maker(2))
    board = Emulated(cases, folder)
    for index, case in enumerate(cases):
        check(case, board.run(index))


def test_dsp_kernels_on_a_cortex_m4(folder: Path) -> None:
    cases = kernel_cases.dsp(kernel_cases.Maker(3))
    used = {case.call.function for case in cases}
    assert used >= {row.function for row in TABLE if "dsp" in row.isa}, "a fast kernel is not reached by any case"
    board = Emulated(cases, folder)
    for index, case in enumerate(cases):
        check(case, board.run(index))
