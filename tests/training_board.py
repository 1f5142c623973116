"""A training step on the emulated board without any protocol: the plan's C with a main() that runs one step when it is told to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from firmware_bridge.emulator import EmulatedBoard
from sdk.backends.firmware.build import bind_source, board_files, model_library, sources_of, write_files
from sdk.backends.firmware.emit import identifier
from sdk.backends.firmware.toolchain import toolchain
from sdk.planner.plan import Plan
from targets.boards import linker_script

MAIN = """void *memcpy(void *to, const void *from, __SIZE_TYPE__ size);
void *memset(void *to, int value, __SIZE_TYPE__ size);
#include "board.h"
#include "{ident}.h"
extern const embarq_memory embarq_the_memory;
volatile uint32_t test_go, embarq_current_step = 0xffffffffu;
static void run(const embarq_model *m)
{{
    for (uint16_t i = 0; i < m->step_count; i++) {{
        embarq_current_step = i;
        m->steps[i].run(m->steps[i].params, &embarq_the_memory);
    }}
    embarq_current_step = 0xffffffffu;
}}
int main(void)
{{
    const embarq_training *t = &{ident}_training;
    board_init();
    for (uint16_t i = 0; i < t->variable_count; i++) {{
        void *at = embarq_at(&embarq_the_memory, t->variables[i].ref);
        if (t->variables[i].initial) memcpy(at, t->variables[i].initial, t->variables[i].size_bytes);
        else memset(at, 0, t->variables[i].size_bytes);
    }}
    for (;;) {{
        while (!test_go) (void)board_uart_read(); /* the emulator takes this for idling */
        run(test_go == 1 ? t->step : t->inference);
        test_go = 0;
    }}
}}
"""


PAINT = 0xA5


class TrainingBoard:
    """A plan of training, running: `step(x, label)`, `logits(x)`, `variables()`; `costs` of the last run by kernel call."""

    def __init__(self, plan: Plan) -> None:
        assert plan.training is not None and plan.fits, plan.shortfall
        self.plan, self.use = plan, plan.training
        with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
            self.board = EmulatedBoard(plan.device, self._built(Path(folder)).read_bytes(), step_names=[s.node for s in plan.steps])
        for region, size in enumerate(plan.arena_bytes):
            if size:
                self.board.poke(f"arena_{region}", bytes([PAINT]) * size)
        self.board.run()

    def arena_bytes(self) -> tuple[int, ...]:
        """Of each region's arena, the bytes up to the last one ever written. (Watching every access would be stricter, but Unicorn 2
        miscomputes stores under a condition while it watches.)"""
        found = []
        for region, size in enumerate(self.plan.arena_bytes):
            data = np.frombuffer(self.board.read(f"arena_{region}"), np.uint8) if size else np.zeros(0, np.uint8)
            found.append(int(np.flatnonzero(data != PAINT)[-1]) + 1 if size else 0)
        return tuple(found)

    def _built(self, folder: Path) -> Path:
        plan = self.plan
        write_files(folder, model_library(plan))
        write_files(folder / "board", board_files(plan.device))
        bound = bind_source(plan).replace('#include "embarq_bridge.h"\n', "").split("extern const embarq_learning")[0]
        write_files(folder, {"bind.c": bound.encode(), "main.c": MAIN.format(ident=identifier(plan.name)).encode(),
                             "board.ld": linker_script(plan.device, plan.stack_reserved_bytes, plan.training.state_bytes).encode()})  # fmt: skip
        kit = toolchain(plan.device, plan.compiler)
        return kit.link(kit.compile(sources_of(folder, plan.device), folder), Path("board.ld"), Path("model.elf"), folder)

    def _address(self, tensor: str) -> int:
        place = self.plan.placements[tensor]
        return self.board.symbol(f"arena_{place.region}").address + place.offset

    def _go(self, what: int) -> None:
        self.board.clear_counts()
        self.board.poke("test_go", bytes([what, 0, 0, 0]))
        self.board.run()
        self.costs = self.board.steps()

    def read(self, tensor: str) -> np.ndarray:
        """The value of a tensor that still stands in the arena."""
        t = self.plan.graph[tensor]
        return np.frombuffer(self.board.read(self._address(tensor), t.size_bytes), t.dtype).reshape(t.shape)

    def step(self, x: np.ndarray, label: int) -> float:
        """One step of training; its loss."""
        self.board.poke(self._address(self.plan.graph.inputs[0]), np.ascontiguousarray(x).tobytes())
        self.board.poke(self._address(self.use.label), np.array([label], np.int32).tobytes())
        self._go(1)
        return float(self.read(self.use.loss)[0])

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Inference with the weights as they are."""
        self.board.poke(self._address(self.plan.graph.inputs[0]), np.ascontiguousarray(x).tobytes())
        self._go(2)
        return self.read(self.use.logits)

    def variables(self) -> Mapping[str, np.ndarray]:
        """Every variable as it is."""
        return {v.name: self.read(v.name) for v in self.use.variables}

    @property
    def instructions(self) -> int:
        """Executed by the kernel calls of the last run."""
        return sum(cost.instructions for cost in self.costs)
