"""Cortex-M boards that run on this computer: `EmulatedBoard` and, as a byte link, `EmulatorLink`.

Exact: the memory map (a stray access is a fault), every result, the number of executed instructions (QEMU agrees), how deep
the stack went, which bytes of the arena were touched, what the flash holds after erasing, programming and a cut of the power.
Estimated: cycles, from the class of each instruction (counter.py).
Not modelled: wait states, caches, dual issue, interrupts (a fault ends the run and is told), alignment traps, how long a UART
takes. Peripherals do what a polled driver sees of them; clocks are ready at once. Helium is absent: boards with a Cortex-M55 run
code built for `Device.as_emulated()`.
"""

from firmware_bridge.emulator.board import Cost, EmulatedBoard
from firmware_bridge.emulator.link import EmulatorLink

__all__ = ["Cost", "EmulatedBoard", "EmulatorLink"]
