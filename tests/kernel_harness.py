"""Runs single kernel calls compiled from the real C: on this computer through ctypes, and on an emulated Cortex-M4.

A `Case` is a node with its tensors. All cases of a test become one C file, so a test file compiles once. Buffers lie
between guard bytes; whoever writes outside its output or scratch is found out.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from sdk.backends.firmware.library import kernel_path
from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.ops import written
from sdk.kernels import Call, Ref, lower

RUNTIME = Path(__file__).resolve().parents[1] / "sdk" / "runtime"
WARN = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-unused-command-line-argument", "-ffp-contract=off", "-fno-sanitize=undefined", "-ffunction-sections", "-fdata-sections")  # noqa: E501
DSP = frozenset({"armv7e-m", "dsp", "fpu-sp"})
GUARD = 0xA5
MARGIN = 64
C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t", "float32": "float", "bool": "uint8_t"}


@dataclass(frozen=True)
class Case:
    """One node in a graph of its own. `values` are the activations' values; `overlap` puts input 0 as near to the output as allowed."""

    graph: Graph
    values: Mapping[str, np.ndarray]
    isa: frozenset[str] = frozenset()
    overlap: int | None = None  # index of the input that shares memory with the output
    apart: int = 0  # bytes more between the two than the kernel asks for

    @property
    def node(self) -> Node:
        """The only node."""
        return self.graph.nodes[0]

    @cached_property
    def call(self) -> Call:
        """Its lowering."""
        call = lower(self.graph, self.node, self.isa)
        assert call is not None
        return call

    def with_call(self, call: Call) -> Case:
        """The same case, computed by another call."""
        case = Case(self.graph, self.values, self.isa, self.overlap, self.apart)
        case.__dict__["call"] = call
        return case

    @cached_property
    def layout(self) -> Layout:
        """Where its buffers lie."""
        return Layout.of(self)


def make_case(op: str, inputs: Sequence[Tensor], output: Tensor, values: Mapping[str, np.ndarray], isa: frozenset[str] = frozenset(), overlap: int | None = None, **attrs: object) -> Case:  # fmt: skip  # noqa: E501
    """A case from tensors; constants among `inputs` carry their data."""
    tensors = {t.name: t for t in (*inputs, output)}
    node = Node("n", op, tuple(t.name for t in inputs), (output.name,), attrs)
    names = tuple(t.name for t in inputs if t.data is None)
    return Case(Graph("case", names, (output.name,), tensors, (node,)), values, isa, overlap)


@dataclass(frozen=True)
class Layout:
    """Byte offsets of a case's buffers in its arena."""

    offsets: Mapping[str, int]
    scratch: int
    size: int

    @staticmethod
    def of(case: Case) -> Layout:
        """Guards between buffers; the overlapping input lies exactly at the distance the kernel promises, rounded up to its alignment."""
        outs = [case.graph[n] for n in case.node.outputs]
        at, offsets = MARGIN, {}
        others = [case.graph[n] for i, n in enumerate(case.node.inputs) if n in case.graph.inputs and i != case.overlap]
        if case.overlap is not None:
            (out,) = outs
            name = case.node.inputs[case.overlap]
            shared = case.graph[name]
            distance = -(-case.call.overlap[case.overlap] // 4) * 4 + case.apart
            base = at + max(0, -distance)
            offsets[out.name], offsets[name] = base, base + distance
            at = max(base + out.size_bytes, base + distance + shared.size_bytes)
            outs = []
        for tensor in (*outs, *others):
            at = -(-(at + MARGIN) // 16) * 16
            offsets[tensor.name] = at
            at += tensor.size_bytes
        scratch = -(-(at + MARGIN) // 16) * 16
        return Layout(offsets, scratch, scratch + case.call.scratch_bytes + MARGIN)


# ---- C text --------------------------------------------------------------------------------------------------------


def _number(value: float | int) -> str:
    if isinstance(value, float):
        return ("INFINITY" if value > 0 else "-INFINITY") if not np.isfinite(value) else f"{float(np.float32(value)).hex()}f"
    return "(-2147483647 - 1)" if value == -(2**31) else f"INT64_C({value})" if abs(value) >= 2**31 else str(int(value))


def _value(case: Case, index: int, value: object) -> str:
    match value:
        case Ref("tensor", name):
            return f"EMBARQ_REF(0, {case.layout.offsets[name]})"
        case Ref("scratch", _):
            return f"EMBARQ_REF(0, {case.layout.scratch})"
        case Ref("const", name):
            return f"c{index}_{name}" if name else "0"
        case tuple():
            return "{" + ", ".join(_value(case, index, v) for v in value) + "}"
    assert isinstance(value, int | float | np.integer | np.floating), value
    return _number(float(value) if isinstance(value, float | np.floating) else int(value))


def _case_source(case: Case, index: int) -> str:
    lines = []
    for name, array in case.call.constants.items():
        flat = np.ascontiguousarray(array).reshape(-1)
        body = ",".join(_number(v) for v in flat.tolist()) or "0"
        lines.append(f"static const {C_TYPES[str(flat.dtype)]} c{index}_{name}[] __attribute__((aligned(4))) = {{{body}}};")
    fields = ", ".join(f".{name} = {_value(case, index, value)}" for name, value in case.call.fields)
    return "\n".join([*lines, f"static const {case.call.struct} p{index} = {{{fields}}};"])


def source(cases: Sequence[Case]) -> str:
    """One C file with every case, run by `run_case(index, arena)`."""
    steps = ",\n".join(f"    {{{case.call.function}, &p{i}, 0, 0}}" for i, case in enumerate(cases))
    return "\n".join([
        '#include "embarq_kernels.h"', "#include <float.h>", "#define INFINITY __builtin_inff()",
        *(_case_source(case, i) for i, case in enumerate(cases)),
        f"static const embarq_step steps[] = {{\n{steps}\n}};",
        "void run_case(int32_t index, uint8_t *arena);",
        "void run_case(int32_t index, uint8_t *arena)",
        "{", "    const embarq_memory memory = {{arena, 0, 0, 0}};", "    steps[index].run(steps[index].params, &memory);", "}", "",
    ])  # fmt: skip


def zig() -> list[str]:
    """The C compiler of the tests."""
    import ziglang

    return [str(Path(ziglang.__file__).parent / "zig"), "cc"]


def build(cases: Sequence[Case], folder: Path, flags: Sequence[str], output: str, command: Sequence[str] | None = None) -> Path:
    """Compile the cases with every kernel they use; a warning is an error."""
    text = source(cases)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = folder / f"cases_{name}.c"
    path.write_text(text)
    kernels = [str(kernel_path(s)) for s in sorted({s for case in cases for s in case.call.sources})]
    made = folder / f"{name}_{output}"
    run = [*(command or zig()), *WARN, *flags, f"-I{RUNTIME / 'include'}", str(path), *kernels, "-o", str(made)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return made


# ---- running -------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a case wrote by name, outputs and updated variables, and the instructions it took (emulated only)."""

    written: dict[str, np.ndarray]
    instructions: int = 0

    @property
    def output(self) -> np.ndarray:
        """The first that was written."""
        return next(iter(self.written.values()))


def fill(case: Case) -> np.ndarray:
    """The arena before the run: guards everywhere, inputs in place."""
    arena = np.full(case.layout.size, GUARD, np.uint8)
    for name in case.graph.inputs:
        data = np.frombuffer(np.ascontiguousarray(case.values[name]).tobytes(), np.uint8)
        arena[case.layout.offsets[name] : case.layout.offsets[name] + data.size] = data
    return arena


def collect(case: Case, before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """What was written; asserts that nothing else but scratch has changed."""
    untouched = np.ones(before.size, bool)
    places = {name: slice(at, at + case.graph[name].size_bytes) for name in written(case.node) for at in (case.layout.offsets[name],)}
    for place in (*places.values(), slice(case.layout.scratch, case.layout.scratch + case.call.scratch_bytes)):
        untouched[place] = False
    wrong = np.flatnonzero(untouched & (before != after))
    assert wrong.size == 0, f"{case.call.function} wrote outside its outputs, first at {wrong[0]} (outputs at {places})"
    return {name: np.frombuffer(after[place].tobytes(), case.graph[name].dtype).reshape(case.graph[name].shape) for name, place in places.items()}


class Host:
    """The kernels compiled for this computer."""

    def __init__(self, cases: Sequence[Case], folder: Path) -> None:
        self.cases = cases
        self.library = ctypes.CDLL(str(build(cases, folder, ("-O2", "-shared", "-fPIC"), "host.so")))

    def run(self, index: int) -> Result:
        """Run one case."""
        case = self.cases[index]
        before = fill(case)
        storage = np.zeros(before.size + 16, np.uint8)
        shift = -storage.ctypes.data % 16
        after = storage[shift : shift + before.size]
        after[:] = before
        self.library.run_case(ctypes.c_int32(index), ctypes.c_void_p(after.ctypes.data))
        return Result(collect(case, before, after))


M4 = ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp")
SCRIPT = """
ENTRY(run_case)
SECTIONS {
  . = 0x08000000;
  .text : { *(.text*) *(.rodata*) }
  .ARM.exidx : { *(.ARM.exidx*) }
  . = 0x20000000;
  .data : { *(.data*) *(.bss*) }
}
"""


class Emulated:
    """The kernels compiled for a Cortex-M4 and run under unicorn, instruction by instruction counted."""

    FLASH, RAM, STOP = 0x08000000, 0x20000000, 0x0FFFFF00

    def __init__(self, cases: Sequence[Case], folder: Path, optimise: str = "-O2") -> None:
        from elftools.elf.elffile import ELFFile

        self.cases = cases
        script = folder / "m4.ld"
        script.write_text(SCRIPT)
        flags = (*M4, optimise, "-ffreestanding", "-Wl,--gc-sections", "-Wl,-e,run_case", "-Wl,-u,run_case", f"-Wl,-T,{script}", "-fno-unwind-tables")
        self.path = build(cases, folder, flags, "m4.elf")
        with self.path.open("rb") as file:
            elf = ELFFile(file)
            self.segments = [(s["p_vaddr"], s.data()) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_filesz"]]
            self.symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols() if s.name}
            self.sizes = {s.name: s["st_size"] for s in elf.get_section_by_name(".symtab").iter_symbols() if s["st_info"]["type"] == "STT_FUNC"}

    def machine(self):
        """A fresh Cortex-M4 with the program loaded."""
        import unicorn as uc
        from unicorn import arm_const as arm

        machine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
        machine.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M4)
        machine.mem_map(self.FLASH, 8 << 20)
        machine.mem_map(self.RAM, 4 << 20)
        machine.mem_map(0xE000E000, 0x1000)
        machine.mem_map(self.STOP & ~0xFFF, 0x1000)
        for address, data in self.segments:
            machine.mem_write(address, data)
        machine.mem_write(0xE000ED88, (0xF << 20).to_bytes(4, "little"))
        machine.reg_write(arm.UC_ARM_REG_FPEXC, 0x40000000)
        return machine

    def run(self, index: int) -> Result:
        """Run one case; counts executed instructions."""
        import unicorn as uc
        from unicorn import arm_const as arm

        case, machine = self.cases[index], self.machine()
        arena = self.RAM + 0x10000
        before = fill(case)
        machine.mem_write(arena, before.tobytes())
        machine.reg_write(arm.UC_ARM_REG_SP, self.RAM + 0x10000 - 64)
        machine.reg_write(arm.UC_ARM_REG_R0, index)
        machine.reg_write(arm.UC_ARM_REG_R1, arena)
        machine.reg_write(arm.UC_ARM_REG_LR, self.STOP | 1)
        counter = Counter(machine)
        machine.hook_add(uc.UC_HOOK_BLOCK, counter)
        machine.emu_start(self.symbols["run_case"] | 1, self.STOP, timeout=120 * uc.UC_SECOND_SCALE)
        after = np.frombuffer(bytes(machine.mem_read(arena, before.size)), np.uint8)
        self.last = counter
        return Result(collect(case, before, after), counter.instructions)

    def profile(self) -> dict[str, int]:
        """Instructions of the last run by function."""
        starts = sorted((address & ~1, name) for name, address in self.symbols.items() if name in self.sizes)
        total: dict[str, int] = {}
        for address, count in self.last.blocks.items():
            name = next((n for a, n in reversed(starts) if a <= address), "?")
            total[name] = total.get(name, 0) + count
        return total


@dataclass
class Counter:
    """Adds up the instructions of every basic block that runs."""

    machine: object
    instructions: int = 0
    known: dict[tuple[int, int], int] = field(default_factory=dict)
    blocks: dict[int, int] = field(default_factory=dict)

    def __call__(self, machine, address: int, size: int, _data) -> None:
        count = self.known.get((address, size))
        if count is None:
            count = self.known[address, size] = thumb_count(bytes(machine.mem_read(address, size)))
        self.instructions += count
        self.blocks[address] = self.blocks.get(address, 0) + count


def thumb_count(code: bytes) -> int:
    """Instructions in a run of Thumb code: a first halfword of 0b11101 or above starts a 32-bit one."""
    at = count = 0
    while at < len(code):
        at += 4 if code[at + 1] >> 3 >= 0b11101 else 2
        count += 1
    return count
