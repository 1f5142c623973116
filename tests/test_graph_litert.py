"""Every quantised op against LiteRT's reference kernels, byte for byte, on models of one op made here."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sdk.graph.from_tflite import from_tflite
from sdk.graph.interpreter import run
from tests.litert_cases import CASES, binary
from tests.tflite_writer import reference


def check(name: str, seeds: range) -> None:
    """The same bytes from LiteRT and from the interpreter, for every seed."""
    for seed in seeds:
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        case = CASES[name](rng)
        feed = case.feed(rng)
        (want,) = reference(case.model, feed)
        graph = from_tflite(case.model)
        have = run(graph, feed)[graph.outputs[0]]
        assert have.dtype == want.dtype and have.shape == want.shape
        assert np.array_equal(have, want), f"seed {seed}: {np.sum(have != want)} of {want.size} differ, by {np.abs(have - want.astype(float)).max()}"


@pytest.mark.parametrize("name", CASES)
def test_same_bytes_as_litert(name: str) -> None:
    check(name, range(8))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_same_bytes_as_litert_at_length(name: str) -> None:
    check(name, range(8, 300))


def test_div_agrees_where_litert_shifts_by_less_than_a_word() -> None:
    """LiteRT shifts a 32-bit number by 32 or more when the quotient is nearly 0; what C does then depends on the machine."""
    compared = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        case = binary("DIV", "DivOptions", "int8")(rng)
        a, b = case.feed(rng)
        zero = case.inputs[1].zero  # type: ignore[union-attr]
        b[b == zero] = zero + 1 if zero < 127 else zero - 1
        (want,) = reference(case.model, [a, b])
        graph = from_tflite(case.model)
        have = run(graph, [a, b])[graph.outputs[0]]
        differ = have != want
        assert np.all(have[differ] == np.clip(graph[graph.outputs[0]].zero_point, *_limits(graph))), seed
        compared += int((~differ).sum())
    assert compared > 5000


def _limits(graph) -> tuple[int, int]:
    from sdk.graph.quantmath import output_range

    return output_range(graph.nodes[0], graph[graph.outputs[0]])
