"""The one place that touches unicorn (GPL-2.0, an optional extra, never part of an artifact)."""

from __future__ import annotations

import ctypes
from typing import Any

from unicorn import (  # noqa: F401
    UC_ARCH_ARM,
    UC_ERR_EXCEPTION,
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_INSN_INVALID,
    UC_ERR_READ_PROT,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_PROT,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_BLOCK,
    UC_HOOK_CODE,
    UC_HOOK_MEM_INVALID,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_WRITE,
    UC_MEM_WRITE_PROT,
    UC_MODE_MCLASS,
    UC_MODE_THUMB,
    UC_PROT_EXEC,
    UC_PROT_NONE,
    UC_PROT_READ,
    UC_PROT_WRITE,
    Uc,
    UcError,
    arm_const,
)
from unicorn.arm_const import UC_ARM_REG_LR, UC_ARM_REG_PC, UC_ARM_REG_R0, UC_ARM_REG_SP  # noqa: F401
from unicorn.unicorn_py3.unicorn import uclib

MODELS = {
    "cortex-m0plus": arm_const.UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": arm_const.UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4,
    "cortex-m7": arm_const.UC_CPU_ARM_CORTEX_M7,
    "cortex-m33": arm_const.UC_CPU_ARM_CORTEX_M33,
}


def new_cpu(name: str) -> Uc:
    """A Cortex-M with no memory yet."""
    cpu = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
    cpu.ctl_set_cpu_model(MODELS[name])
    return cpu


def add_native_hook(cpu: Uc, kind: int, function: Any, user: Any, begin: int, end: int) -> None:
    """A C function as a hook, without a Python call each time. begin > end: everywhere. `user` must outlive the hook."""
    handle = ctypes.c_size_t()
    pointer = ctypes.cast(function, ctypes.c_void_p)
    status = uclib.uc_hook_add(cpu._uch, ctypes.byref(handle), kind, pointer, user, ctypes.c_uint64(begin), ctypes.c_uint64(end))
    if status:
        raise UcError(status)
