"""The kernel table is complete, its functions exist, and what it cannot compute is told in one sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sdk.backends.firmware.library import kernel_files
from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS
from sdk.kernels import lower
from sdk.kernels.table import TABLE
from tests import kernel_cases, training_cases
from tests.kernel_harness import RUNTIME

M0 = frozenset({"armv6-m"})


def functions(text: str) -> set[str]:
    """Names of the kernels declared or defined in C."""
    return set(re.findall(r"embarq_kernel_function (embarq_\w+);", text))


def test_every_op_has_a_kernel() -> None:
    free = {"reshape", "opaque"}
    assert {row.op for row in TABLE} == set(OPS) - free
    for row in TABLE:
        assert set(row.dtypes) <= set(OPS[row.op].dtypes), row
        assert row.why


def test_every_data_type_an_op_has_on_a_board() -> None:
    missing = {(op.name, d) for op in OPS.values() for d in op.dtypes} - {(row.op, d) for row in TABLE for d in row.dtypes}
    assert {d for op, d in missing if op not in ("reshape", "opaque", "reduce_max", "argmax")} <= {"int32", "int64"}


def test_functions_are_declared_defined_and_used() -> None:
    declared = functions((RUNTIME / "include" / "embarq_kernels.h").read_text())
    everything = "\n".join(path.read_text() for path in sorted((RUNTIME / "kernels").glob("*.c")))
    everything += re.sub(r"(?:UNARY|BINARY)\((\w+),", r"void embarq_\1_f32(const void *params", everything)
    defined = set(re.findall(r"void (embarq_\w+)\(const void \*params", everything)) - {"embarq_##name##_f32", "embarq_name_f32"}
    assert defined == declared
    make = kernel_cases.Maker()
    calls = [case.call for case in (*kernel_cases.portable(make), *kernel_cases.dsp(make))]
    unused = declared - {call.function for call in calls}
    assert not unused


def test_functions_of_training_are_declared_defined_and_used() -> None:
    declared = functions((RUNTIME / "include" / "embarq_training_kernels.h").read_text())
    everything = "\n".join(path.read_text() for path in sorted((RUNTIME / "training").glob("*.c")))
    assert set(re.findall(r"void (embarq_\w+)\(const void \*params", everything)) == declared
    cases = training_cases.cases(training_cases.Maker())
    assert {case.call.function for case in cases} == declared
    assert {row.op for row in TABLE} >= {case.node.op for case in cases}
    for case in cases:
        text = repr(case.call.fields)
        assert all(f"Ref(kind='const', name='{name}')" in text for name in case.call.constants), case.call.function


def test_no_two_files_of_kernels_have_one_name() -> None:
    names = [path.name for path in kernel_files()]
    assert len(names) == len(set(names))


def test_calls_name_their_constants_and_sources() -> None:
    for case in kernel_cases.portable(kernel_cases.Maker()):
        text = repr(case.call.fields)
        assert case.call.sources and all((RUNTIME / "kernels" / s).exists() for s in case.call.sources)
        for name in case.call.constants:
            assert f"Ref(kind='const', name='{name}')" in text, case.call.function


def test_a_reshape_needs_no_code() -> None:
    x, y = Tensor("x", (2, 6), "int8", Quant((0.1,), (0,))), Tensor("y", (3, 4), "int8", Quant((0.1,), (0,)))
    graph = Graph("g", ("x",), ("y",), {"x": x, "y": y}, (Node("n", "reshape", ("x",), ("y",), {"shape": (3, 4)}),))
    assert lower(graph, graph.nodes[0], M0) is None


def two(op: str, a: Tensor, b: Tensor, out: Tensor, **attrs: object) -> Graph:
    """A graph of one node with two inputs."""
    return Graph("g", (a.name, b.name), (out.name,), {t.name: t for t in (a, b, out)}, (Node("layer7", op, (a.name, b.name), (out.name,), attrs, "net.py:12"),))


def test_unsupported_type_names_node_source_and_mend() -> None:
    a, b, y = (Tensor(n, (3,), "int64") for n in "aby")
    graph = two("add", a, b, y)
    with pytest.raises(UnsupportedOp, match=r"layer7 \(add\) from net.py:12 is int64, .* float32, int16, int8; quantise or cast it"):
        lower(graph, graph.nodes[0], M0)


def test_unknown_op_is_named() -> None:
    a, b, y = (Tensor(n, (3,), "float32") for n in "aby")
    graph = two("opaque", a, b, y, kind="aten.fft")
    with pytest.raises(UnsupportedOp, match=r"layer7 from net.py:12 is aten.fft on float32, which no microcontroller kernel computes; replace it"):
        lower(graph, graph.nodes[0], M0)


def test_weights_computed_at_run_time_are_refused() -> None:
    x, w, y = Tensor("x", (1, 4), "float32"), Tensor("w", (2, 4), "float32"), Tensor("y", (1, 2), "float32")
    graph = two("dense", x, w, y)
    with pytest.raises(UnsupportedOp, match=r"layer7 \(dense, float32\) from net.py:12 its input 1 \(w\) is computed at run time.*; make it a constant"):
        lower(graph, graph.nodes[0], M0)


def test_softmax_along_another_axis_is_refused() -> None:
    make = kernel_cases.Maker()
    case = make.case("softmax", [make.tensor("x", (3, 4), "float32")], axis=0, beta=1.0)
    with pytest.raises(UnsupportedOp, match=r"another axis than the last.*transpose around it"):
        _ = case.call


def test_lowering_is_deterministic() -> None:
    first, second = (kernel_cases.dsp(kernel_cases.Maker(9)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert repr(a.call.fields) == repr(b.call.fields)
        for name, array in a.call.constants.items():
            np.testing.assert_array_equal(array, b.call.constants[name])
