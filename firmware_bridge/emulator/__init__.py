"""Cortex-M boards that run on this computer: `EmulatedBoard` and, as a byte link, `EmulatorLink`."""

from firmware_bridge.emulator.board import Cost, EmulatedBoard
from firmware_bridge.emulator.link import EmulatorLink

__all__ = ["Cost", "EmulatedBoard", "EmulatorLink"]
