"""Damaged .tflite files: a sentence, or a graph that is sound; never a traceback, never a large allocation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import ModelError, UnsupportedOp
from sdk.graph.from_tflite import from_tflite
from sdk.graph.text import to_text
from sdk.graph.verify import verify
from tests.data import shared
from tests.litert_cases import CASES
from tests.strategies import damaged
from tests.test_from_tflite import convolution, shape_arithmetic

_SMALL = ("CONV_2D int8 bias int32 per channel", "STRIDED_SLICE int8", "SOFTMAX int8", "MEAN int8", "PADV2 int8", "FULLY_CONNECTED int16 bias int64 per tensor")


def small_models() -> list[bytes]:
    return [convolution(), shape_arithmetic(), *(CASES[name](np.random.default_rng(0)).model for name in _SMALL)]


MODELS = small_models()


def survives(data: bytes) -> bool:
    """True when the file was read, False when it was refused with one sentence."""
    try:
        graph = from_tflite(data)
    except (ModelError, UnsupportedOp) as error:
        assert str(error) and "\n" not in str(error)
        return False
    verify(graph)
    to_text(graph)
    return True


@settings(max_examples=400)
@given(data=st.integers(0, len(MODELS) - 1).flatmap(lambda i: damaged(MODELS[i])))
def test_damaged_small_files(data: bytes) -> None:
    survives(data)


@pytest.mark.long
@settings(max_examples=10000)
@given(data=st.integers(0, len(MODELS) - 1).flatmap(lambda i: damaged(MODELS[i])))
def test_damaged_small_files_at_length(data: bytes) -> None:
    survives(data)


def mutations(path: str, count: int) -> None:
    data, rng = shared(path).read_bytes(), np.random.default_rng(7)
    read = 0
    for _ in range(count):
        broken = bytearray(data)
        # Tables stand at the end of files the converter wrote, weights before them: aim at both.
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(len(data) - 4)) if rng.random() < 0.3 else int(rng.integers(max(0, len(data) - 12000), len(data) - 4))
            broken[place : place + 4] = int(rng.choice([0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32))])).to_bytes(4, "little")
        read += survives(bytes(broken[: int(rng.integers(len(data)))] if rng.random() < 0.1 else broken))
    assert read < count


@pytest.mark.parametrize("name", ["kws01_dscnn_int8", "ic01_resnet8_fp32"])
def test_damaged_real_files(name: str) -> None:
    mutations(f"mlperf_tiny/models/{name}.tflite", 60)


@pytest.mark.long
@pytest.mark.parametrize("name", ["kws01_dscnn_int8", "ic01_resnet8_fp32", "vww01_mbv1_025_int8", "ad01_autoencoder_int8", "sww_ref_int8"])
def test_damaged_real_files_at_length(name: str) -> None:
    mutations(f"mlperf_tiny/models/{name}.tflite", 1000)


def test_lists_that_claim_to_be_long_allocate_nothing() -> None:
    model = bytearray(convolution())
    tracemalloc.start()
    for place in range(0, len(model) - 4, 4):
        broken = bytearray(model)
        broken[place : place + 4] = (2**31 - 8).to_bytes(4, "little")
        survives(bytes(broken))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
