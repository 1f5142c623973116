"""The program that learns: an exported program as a flat list of steps, its layers found, its batch norms folded.

`read_program(net, example)` takes what `torch.export` sees, so that functional ReLUs, reshapes and residuals are found however the user's
classes are written, and so that a saved `.pt2` trains without its classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdk.errors import ModelError
from sdk.planner.training.records import LayerRecord


@dataclass(frozen=True)
class Ref:
    """An argument that is another step's value, a parameter, a buffer or the input, by name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation of the program.

    kind: "conv2d", "linear", "relu", ... where training knows a cheaper way, "scalar" for a size computed from the batch, else "plain".
    target(*args, **kwargs) is the plain operation. shape: of its value, the batch as None, or None where the value is no tensor.
    batch_axis: which axis of the value is the batch; None where there is none, or where it cannot be told.
    layer: the name of the layer whose weight this step uses.
    """

    name: str
    kind: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int | None, ...] | None = None
    batch_axis: int | None = None
    layer: str = ""

    @property
    def refs(self) -> tuple[str, ...]:
        """Names of all values it reads, each once."""
        return tuple(dict.fromkeys(_refs((self.args, tuple(self.kwargs.values())))))

    @property
    def sample_size(self) -> int:
        """Values of one sample (the whole value where there is no batch axis)."""
        size = 1
        for extent in self.shape or ():
            size *= extent or 1
        return size


@dataclass(frozen=True)
class Fold:
    """The batch norm folded into a convolution: W' = scale * W per output channel, scale float32 [O].

    A step along the gradient of W' moves W by 1 / scale of what the unfolded net's step does, and the gradient of W' is 1 / scale of that of
    W: an update of W' multiplied by scale^2 keeps the unfolded net's trajectory. own_bias: the bias that learns is the convolution's own
    (scaled in the same way); otherwise it is the batch norm's shift, which is added as it is.
    """

    scale: Tensor
    own_bias: bool


@dataclass(frozen=True)
class Layer:
    """A layer that can learn: its record, the keys of its weight and bias in the program's values, the steps that use it."""

    record: LayerRecord
    weight: str
    bias: str | None
    steps: tuple[str, ...]
    fold: Fold | None = None

    @property
    def name(self) -> str:
        """Name of the layer in the source model."""
        return self.record.name

    @property
    def shared(self) -> bool:
        """True where several steps use the same weight: its gradients are added up before it moves."""
        return len(self.steps) > 1


@dataclass(frozen=True, eq=False)
class TrainableProgram:
    """What `read_program` found. Steps run in order; values are parameters and buffers by their name in the source model, weights folded.

    input_shape: of one sample. batch: the fixed batch of a program exported without a dynamic one, else None. classes: of the logits.
    plain: {module name: keys} of parameters that no layer of ours uses: they can learn by plain autograd. source: the model's own parameters
    and buffers, as they were. origin: the module, or the exported program, that was read.
    """

    steps: tuple[Step, ...]
    values: Mapping[str, Tensor]
    by_name: Mapping[str, Layer]
    input: str
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    output: str
    classes: int
    batch: int | None
    source: Mapping[str, Tensor]
    origin: Any = field(repr=False)
    model_id: str = ""
    decisions: tuple[str, ...] = ()
    plain: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        """The layers that can learn, in the order in which they run; without spectra until calibrated."""
        return tuple(layer.record for layer in self.by_name.values())

    @property
    def blocks(self) -> tuple[Any, ...]:
        """The blocks that may be recomputed from their inputs, `recompute.Block`, in order."""
        from sdk.training.nn.recompute import blocks

        return blocks(self, [step for step in self.steps if step.kind != "scalar"])

    def merged(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The source model's parameters and buffers, with `trained` values (by key) unfolded into them. Unchanged values stay bit-equal."""
        state = {name: value.detach().clone() for name, value in self.source.items()}
        for layer in self.by_name.values():
            for key, scaled in ((layer.weight, True), (layer.bias, layer.fold is not None and layer.fold.own_bias)):
                if key in trained and key in state:
                    scale = layer.fold.scale if layer.fold is not None and scaled else None
                    state[key] = _unfolded(state[key], self.values[key], trained[key], scale)
        for key, value in trained.items():
            if key in state and not any(key in (layer.weight, layer.bias) for layer in self.by_name.values()):
                state[key] = value.detach().clone()
        return state

    def module(self, trained: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the source module with the trained weights (for an exported program: its module)."""
        import copy

        net: nn.Module = copy.deepcopy(self.origin) if isinstance(self.origin, nn.Module) else self.origin.module()
        with torch.no_grad():
            own = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers(remove_duplicate=False))
            for name, value in self.merged(trained).items():
                if name in own:
                    own[name].copy_(value)
        return net


def read_program(source: Any, example: Any = None) -> TrainableProgram:
    """The program of an `nn.Module` (read in evaluation mode), an `ExportedProgram` or a `.pt2` file.

    example: one input with its batch, tensor or numpy array; a module needs it, a program does not. The batch is made dynamic where the
    module allows it. Checked: the program computes on the example what the source computes. Raises ModelError, UsageError.
    """
    from sdk.training.nn.export import exported
    from sdk.training.nn.layers import lowered

    program, sample = exported(source, example)
    origin = program if isinstance(source, (str, Path)) else source
    found = lowered(program, origin)
    _proved(found, program, sample)
    return found


def model_identity(layers: Iterable[LayerRecord], source: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of the layers and of every parameter and buffer: equal only for the same model with the same weights.

    The same whether it was read from a module or from a program file, whose steps may have other names.
    """
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(f"{layer}\n".encode())
    for name in sorted(source):
        value = source[name].detach().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def resolve(arg: Any, env: Mapping[str, Any]) -> Any:
    """The argument with every `Ref` replaced by its value."""
    if isinstance(arg, Ref):
        return env[arg.name]
    if isinstance(arg, (tuple, list)):
        return type(arg)(resolve(a, env) for a in arg)
    return arg


def run_plain(program: TrainableProgram, x: Tensor) -> Tensor:
    """Logits [N, classes] of inputs [N, ...] by the plain operations: what every other way of running it is compared with."""
    env: dict[str, Any] = {**program.values, program.input: x}
    for step in program.steps:
        env[step.name] = run_step(step, env, x.shape[0])
    logits: Tensor = env[program.output]
    return logits


def run_step(step: Step, env: Mapping[str, Any], batch: int) -> Any:
    """The value of one step by its plain operation."""
    if step.kind == "scalar":
        return step.target(batch)
    return step.target(*resolve(step.args, env), **{k: resolve(v, env) for k, v in step.kwargs.items()})


def _proved(program: TrainableProgram, exported: Any, sample: Tensor | None) -> None:
    if sample is None:
        return
    with torch.no_grad():
        want, got = exported.module()(sample), run_plain(program, sample)
    want = want[0] if isinstance(want, (tuple, list)) else want
    error = float((got - want).abs().max() / want.abs().max().clamp_min(1e-12))
    if not error < 1e-3:
        raise ModelError(f"the program read from the model differs from it by {error:.2g} of its largest output; give an example without NaN and export again")


def _unfolded(source: Tensor, before: Tensor, after: Tensor, scale: Tensor | None) -> Tensor:
    """source + (after - before) / scale, channels of scale 0 as they were; shapes [O, ...] all but scale [O]."""
    moved = after.detach().reshape(before.shape) - before
    if scale is not None:
        by = scale.reshape(-1, *[1] * (moved.dim() - 1))
        moved = torch.where(by == 0, torch.zeros_like(moved), moved / torch.where(by == 0, torch.ones_like(by), by))
    return torch.where(moved == 0, source.detach().reshape(moved.shape), source.detach().reshape(moved.shape) + moved).reshape(source.shape)


def _refs(arg: Any) -> Iterable[str]:
    if isinstance(arg, Ref):
        yield arg.name
    elif isinstance(arg, (tuple, list)):
        for a in arg:
            yield from _refs(a)
