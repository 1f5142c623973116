"""Which ONNX a Jetson's TensorRT reads, and what its GPU computes. Each line has its source.

An artifact is written for the oldest TensorRT that it shall meet: a newer one reads it too ("where possible, the parser is
backward compatible", NVIDIA's ONNX opset guide), so the default serves JetPack 5 and 6 and only a Jetson Nano needs "8.2".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: We write no newer opset than torch's exporter makes by itself: nothing in it is wanted, and every step is a risk.
NEWEST_OPSET = 18
#: QuantizeLinear and DequantizeLinear take one scale per channel from here on.
OLDEST_OPSET = 13


@dataclass(frozen=True)
class Release:
    """A TensorRT release line: `max_opset` as documented; `ir_version` of ONNX files of that time; where the facts stand."""

    name: str
    max_opset: int
    ir_version: int
    jetpack: str
    source: str

    @property
    def opset(self) -> int:
        """The newest opset we write for it."""
        return min(self.max_opset, NEWEST_OPSET)

    @property
    def version(self) -> tuple[int, int]:
        """(8, 2)."""
        major, minor = self.name.split(".")
        return int(major), int(minor)


@dataclass(frozen=True)
class Jetson:
    """What the GPU of a device computes, as TensorRT's hardware and precision table has it."""

    tensorrt: str
    capability: str
    int8: bool
    sparsity: bool
    source: str


_OPSETS = "onnx-tensorrt docs/operators.md, branch release/"
_MATRIX = "TensorRT support matrix, hardware and precision"

RELEASES: Mapping[str, Release] = MappingProxyType({
    r.name: r for r in (
        Release("8.2", 13, 7, "4.6", f"{_OPSETS}8.2-GA: operators up to opset 13; JetPack 4.6.1 has TensorRT 8.2.1"),
        Release("8.5", 17, 8, "5.1", f"{_OPSETS}8.5-GA: operators up to opset 17; JetPack 5.1.2 has TensorRT 8.5.2"),
        Release("8.6", 17, 8, "6.0", f"{_OPSETS}8.6-GA: operators up to opset 17; which JetPack brings it is second-hand"),
        Release("10.0", 20, 8, "6.1", f"{_OPSETS}10.0-GA: opset 9 to 20; JetPack 6.1 has TensorRT 10.3"),
    )
})  # fmt: skip

DEVICES: Mapping[str, Jetson] = MappingProxyType({
    "jetson-nano": Jetson("8.2", "5.3", False, False, f"{_MATRIX}: capability 5.3 has FP32 and FP16, no INT8; JetPack 4 is the board's last"),
    "jetson-orin-nano": Jetson("8.5", "8.7", True, True, f"{_MATRIX}: capability 8.7 has FP16 and INT8; sparsity from Ampere on"),
    "jetson-agx-orin": Jetson("8.5", "8.7", True, True, f"{_MATRIX}: capability 8.7 has FP16 and INT8; sparsity from Ampere on"),
})  # fmt: skip

DEFAULT = "8.5"


def release_for(options: Mapping[str, Any]) -> Release | None:
    """The release that a recipe's options name ("tensorrt", else that of "device", else the default); None for an unknown one.

    `release_for({"tensorrt": "10.3"}).name` is "10.0": the newest known release that is not newer.
    """
    jetson = DEVICES.get(str(options.get("device")))
    asked = str(options.get("tensorrt") or (jetson.tensorrt if jetson else DEFAULT))
    try:
        wanted = tuple(int(part) for part in asked.split(".")[:2])
    except ValueError:
        return None
    known = [r for r in RELEASES.values() if r.version <= wanted]
    return max(known, key=lambda r: r.version) if known else None
