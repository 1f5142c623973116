"""The little of CUDA that running an engine needs, through ctypes: no package to install on a Jetson, the libraries are there with JetPack."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from .errors import EngineRefused

_LIBRARIES = ("libcudart.so", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
_TO_DEVICE, _TO_HOST = 1, 2
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """Which GPU and which CUDA: an engine belongs to these."""

    name: str
    capability: str
    driver: int
    runtime: int


class Cuda:
    """Device 0. Every call raises `EngineRefused` with CUDA's number where it fails; the constructor, where there is no CUDA."""

    def __init__(self) -> None:
        self._runtime = _load(_LIBRARIES, "libcudart")
        self._driver = _load(("libcuda.so.1", "libcuda.so"), "libcuda")
        self._call("cudaFree", ctypes.c_void_p(0))  # makes the context
        self.gpu = self._find_gpu()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._runtime, name)(*arguments)
        if code != 0:
            raise EngineRefused(f"CUDA's {name} failed with error {code}; check nvidia-smi or tegrastats, and free memory")

    def _find_gpu(self) -> Gpu:
        device, number = ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        if self._driver.cuInit(0) or self._driver.cuDeviceGet(ctypes.byref(device), 0) or self._driver.cuDeviceGetName(name, 256, device):
            raise EngineRefused("the CUDA driver shows no GPU; check that JetPack's driver is loaded")
        found = []
        for attribute in (_MAJOR, _MINOR):
            self._driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
            found.append(str(number.value))
        versions = []
        for call in ("cudaDriverGetVersion", "cudaRuntimeGetVersion"):
            self._call(call, ctypes.byref(number))
            versions.append(number.value)
        return Gpu(name.value.decode(errors="replace"), ".".join(found), versions[0], versions[1])

    def free_bytes(self) -> int:
        """Free memory as CUDA sees it."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size_bytes: int) -> int:
        """Address of new device memory."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        return int(address.value or 0)

    def release(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def upload(self, address: int, array: Any) -> None:
        """A C-ordered numpy array to the device."""
        self._call("cudaMemcpy", ctypes.c_void_p(address), ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), _TO_DEVICE)

    def download(self, array: Any, address: int) -> None:
        """From the device into a C-ordered numpy array."""
        self._call("cudaMemcpy", ctypes.c_void_p(array.ctypes.data), ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), _TO_HOST)

    def synchronise(self) -> None:
        """Wait for everything that was started."""
        self._call("cudaDeviceSynchronize")


def _load(names: tuple[str, ...], what: str) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineRefused(f"{what} is not on this machine; install JetPack's CUDA runtime")
