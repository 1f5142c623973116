"""From a user's module to one exported program whose batch is free, without operations that write into their input."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sdk.errors import ModelError, UsageError
from sdk.training.nn.data import tensor

aten = torch.ops.aten
#: Operations with a training mode, and which argument tells.
_TRAINING = {aten.batch_norm.default: 5, aten.dropout.default: 2, aten.feature_dropout.default: 2, aten._native_batch_norm_legit.default: 5,
             aten._native_batch_norm_legit_functional.default: 5}  # fmt: skip


def exported(source: Any, example: Any = None) -> tuple[ExportedProgram, Tensor | None]:
    """(program, an input to try it on or None). A module is exported with a dynamic batch, or with the example's where it fixes one."""
    if isinstance(source, (str, Path)):
        source = _loaded(Path(source))
    sample = _sample(example)
    if isinstance(source, nn.Module):
        if sample is None:
            raise UsageError("a module was given without an example; pass example=, one input batch, such as torch.zeros(2, 3, 32, 32)")
        sample = sample if sample.shape[0] > 1 else torch.cat([sample, sample])  # a batch of 1 would be taken for a constant
        return functional(_exported_module(source, sample)), sample
    if not isinstance(source, ExportedProgram):
        raise UsageError(f"cannot train a {type(source).__name__}; give an nn.Module with an example, an ExportedProgram or a .pt2 file")
    return functional(source), sample


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program without operations such as `relu_` that write into their input: memory is planned here, not by the user's net."""
    for node in program.graph.nodes:
        if node.target in _TRAINING and len(node.args) > _TRAINING[node.target] and node.args[_TRAINING[node.target]] is True:
            raise ModelError("the program was exported in training mode, with dropout or with batch norms that move; export net.eval()")
    writes = any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in program.graph.nodes if node.op == "call_function")
    if not writes:
        return program
    with _quiet():
        return program.run_decompositions({})


def _exported_module(net: nn.Module, sample: Tensor) -> ExportedProgram:
    modes = {m: m.training for m in net.modules()}
    try:
        with _quiet(), torch.no_grad():
            net.eval()
            try:
                return torch.export.export(net, (sample,), dynamic_shapes=({0: Dim("batch")},))
            except Exception:  # a net that names its batch: exported with the example's
                return torch.export.export(net, (sample,))
    except Exception as error:  # torch.export raises dozens of kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = (lines[0] if lines else type(error).__name__).rstrip(".;")
        mend = "give inputs of the shape it takes, and no branches on values"
        raise ModelError(f"torch.export cannot trace {type(net).__name__} on {list(sample.shape)} ({said}); {mend}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _sample(example: Any) -> Tensor | None:
    if example is None:
        return None
    parts = list(example.values()) if isinstance(example, Mapping) else list(example) if isinstance(example, (tuple, list)) else [example]
    if len(parts) != 1:
        raise UsageError(f"training takes nets of one input and the example has {len(parts)}; wrap the net so that it takes one tensor")
    sample = tensor(parts[0])
    if sample.dim() < 1 or sample.shape[0] < 1:
        raise UsageError(f"the example has shape {list(sample.shape)}, which holds no sample; give at least one, batch first")
    return sample


def _loaded(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise UsageError(f"cannot load {path}: there is no such file")
    try:
        with _quiet():
            return torch.export.load(str(path))
    except Exception as error:  # damaged archives fail in many ways
        raise ModelError(f"{path} is not a program that torch.export.save wrote, or is damaged; export it again") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's warnings and log lines silent: what matters of them is in the errors raised here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
