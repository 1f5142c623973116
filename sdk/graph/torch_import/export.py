"""One `torch.export` program for every backend, and one sentence for everything that can go wrong on the way to it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import ModelError, UsageError


def import_torch() -> Any:
    """The torch package; UsageError naming the extra when it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UsageError('reading a torch model needs torch, which is not installed; pip install "embarq[torch]"') from error
    return torch


def export_program(module_or_path: Any, example: Any = None) -> Any:
    """The `torch.export.ExportedProgram` of a module (in evaluation mode) or of a saved `.pt2` file.

    example: one input, a tuple of inputs, or a dict of keyword inputs; tensors or numpy arrays of the fixed shape, batch included.
    The module's training mode is put back as it was. Raises UsageError for a missing or unfit example, ModelError otherwise.
    """
    torch = import_torch()
    if isinstance(module_or_path, torch.export.ExportedProgram):
        return _static(module_or_path)
    if isinstance(module_or_path, (str, Path)):
        return _static(_load(torch, Path(module_or_path)))
    if not isinstance(module_or_path, torch.nn.Module):
        raise UsageError(f"cannot export a {type(module_or_path).__name__}; give an nn.Module with an example, or a .pt2 file")
    args, kwargs = example_inputs(example)
    with _evaluating(torch, module_or_path):
        _try_once(torch, module_or_path, args, kwargs)
        return _static(_export(torch, module_or_path, args, kwargs))


def example_inputs(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` of tensors from whatever the user gave; numpy float64 becomes float32."""
    torch = import_torch()
    if example is None:
        raise UsageError("a torch module was given without an example; pass example=, one input of the model's fixed shape, such as torch.zeros(1, 3, 32, 32)")

    def tensor(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = value.astype(np.float32) if value.dtype == np.float64 else value
            return torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, torch.Tensor):
            return value.detach()
        raise UsageError(f"the example holds a {type(value).__name__}; give tensors or numpy arrays")

    if isinstance(example, Mapping):
        return (), {str(k): tensor(v) for k, v in example.items()}
    if isinstance(example, (tuple, list)):
        return tuple(tensor(v) for v in example), {}
    return (tensor(example),), {}


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's warnings and log lines silent: what matters of them is in the errors raised here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _evaluating(torch: Any, module: Any) -> Iterator[None]:
    """The module in evaluation mode; every submodule's mode is put back afterwards."""
    modes = {m: m.training for m in module.modules()}
    try:
        with _quiet(), torch.no_grad():
            yield module.eval()
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


def _first_line(error: BaseException) -> str:
    """The first sentence of a foreign error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".;")


def _describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in (*args, *kwargs.values()))


def _try_once(torch: Any, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run the module on the example: an unfit example is told apart from a module that cannot be exported."""
    try:
        module(*args, **kwargs)
    except Exception as error:  # whatever a user's forward raises
        shown = _describe(args, kwargs)
        raise UsageError(f"{type(module).__name__} cannot run on the example {shown} ({_first_line(error)}); give inputs of the shape and type it takes") from error  # noqa: E501


def _export(torch: Any, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    try:
        with redirect_stderr(io.StringIO()):  # torch prints the half-made program
            return torch.export.export(module, args, dict(kwargs))
    except Exception as error:  # torch.export raises dozens of kinds
        raise ModelError(
            f"torch.export cannot trace {type(module).__name__} ({_first_line(error)}); "
            "write its forward without branches or loops that depend on the values of tensors") from error  # fmt: skip


def _load(torch: Any, path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"cannot load {path}: there is no such file")
    try:
        with _quiet():
            return torch.export.load(str(path))
    except Exception as error:  # damaged archives fail in many ways
        raise ModelError(f"{path} is not a program that torch.export.save wrote, or is damaged ({_first_line(error)}); export it again") from error


def _static(program: Any) -> Any:
    """The program with inputs of fixed shape. One whose batch alone is free is fixed at a batch of 1; its source stays as it is."""
    free = False
    for node in program.graph.nodes:
        shape = list(getattr(node.meta.get("val"), "shape", ()))
        if node.op == "placeholder" and any(not isinstance(d, int) for d in shape[1:]):
            raise ModelError(f"input {node.name} has shape {[str(d) for d in shape]}, which is not fixed; export it with dynamic_shapes for the batch alone")
        free |= node.op == "placeholder" and bool(shape) and not isinstance(shape[0], int)
    return _with_batch_of_1(program) if free else program


def _with_batch_of_1(program: Any) -> Any:
    torch = import_torch()
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [values[name] for name in program.graph_signature.user_inputs]
    args = tuple(torch.zeros([d if isinstance(d, int) else 1 for d in v.shape], dtype=v.dtype) for v in inputs)
    with _quiet(), torch.no_grad():
        return _export(torch, program.module(), args, {})


def functional(program: Any) -> Any:
    """The program without operations in place; the same one when it has none."""
    if not any(_mutates(node) for node in program.graph.nodes):
        return program
    with _quiet():
        return program.run_decompositions({})


def _mutates(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable
