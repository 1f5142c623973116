"""The MLPerf Tiny int8 models on emulated boards, fed the public samples: every output byte is that of LiteRT's reference kernels.

A sample of the samples; `python -m benchmarks.mcu` runs them all.
"""

from __future__ import annotations

import numpy as np
import pytest

import sdk
from benchmarks import mcu
from tests.data import shared

for _needed in ("ziglang", "unicorn"):
    pytest.importorskip(_needed, reason='needs the firmware extra (pip install "embarq[firmware,bridge]")')

COUNT = 6
CASES = [(model, device) for device in mcu.DEVICES for model in mcu.MODELS]
CASES += [(model, device) for device in ("stm32f405", "nrf52840") for model in ("kws01", "ad01")]
EVERYDAY = {("kws01", "stm32l4r5"), ("ad01", "stm32f405")}


@pytest.mark.parametrize(("model", "device"), [pytest.param(*c, marks=[] if c in EVERYDAY else [pytest.mark.long]) for c in CASES])
def test_the_board_computes_the_reference_kernels_bytes(model: str, device: str) -> None:
    path = shared(f"mlperf_tiny/models/{mcu.MODELS[model]}.tflite")
    shared("mlperf_tiny/public/ad01_golden.npz")
    samples = mcu.samples_of(model, COUNT, full=False)
    with sdk.compile(sdk.plan(device, str(path))).flash("emulator") as session:
        outputs = [np.asarray(y).reshape(-1) for y in session.run_each(samples.inputs[:COUNT])]
    assert np.array_equal(outputs, samples.golden[:COUNT].reshape(COUNT, -1))
