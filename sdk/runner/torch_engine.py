"""PyTorch, on an exported program (`.pt2`): what a model that learns on its device is run with."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .engines import Signature, check_options, first_line, missing
from .errors import EngineRefused


def _torch() -> Any:
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            import torch.export
    except Exception as error:
        raise missing("torch", error) from error
    return torch


class TorchEngine:
    """A `.pt2` file. It has no options."""

    name = "torch"
    why_no_profile = ""

    def __init__(self, path: str, threads: int, options: Mapping[str, Any]) -> None:
        check_options("torch", options, ())
        self._torch = _torch()
        self._torch.set_num_threads(threads)
        self.version = str(self._torch.__version__).split("+")[0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = self._torch.export.load(path)
                self._module = program.module()
        except Exception as error:
            raise EngineRefused(f"torch {self.version} does not open {path}: {first_line(error)}; compile it with the torch of the device") from error
        wanted = {node.name: node for node in program.graph.nodes}
        signature = program.graph_signature
        self.inputs = [_signature(name, wanted[name]) for name in signature.user_inputs]
        self.outputs = [_signature(str(name), wanted[str(name)]) for name in signature.user_outputs]

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One inference."""
        with self._torch.no_grad():
            try:
                found = self._module(*(self._torch.from_numpy(np.array(array, order="C")) for array in arrays))
            except RuntimeError as error:
                raise EngineRefused(f"torch {self.version} stopped while running: {first_line(error)}; check the inputs and the free memory") from error
        return [tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else (found,))]

    def profile(self, arrays: list[np.ndarray], repeats: int) -> list[dict[str, Any]] | None:
        """Mean time of each kind of operation, as torch's own profiler tells it."""
        self.run(arrays)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self._torch.autograd.profiler.profile() as trace:
                for _ in range(repeats):
                    self.run(arrays)
        rows = [{"name": row.key, "op": row.key.rpartition("::")[2], "ms": row.self_cpu_time_total / 1000 / repeats} for row in trace.key_averages()]
        return [row for row in rows if row["ms"] > 0]

    def close(self) -> None:
        """Give the memory back."""
        self._module = None


def _signature(name: str, node: Any) -> Signature:
    """Name, shape with -1 where it is not fixed, and numpy's name of the data type."""
    value = node.meta["val"]
    return name, tuple(size if isinstance(size, int) else -1 for size in value.shape), str(value.dtype).rpartition(".")[2]
