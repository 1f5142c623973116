"""What a plan says about training on a microcontroller: layers, variables, and where the bytes of a step go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sdk.graph.ir import Graph

#: Classes of `TrainingUse.bytes`, in the order they are told.
CLASSES = ("weights", "optimiser", "saved", "masks", "transients")


_NOT_PLAIN = ("layers", "variables", "bytes", "graph", "real", "bases")


@dataclass(frozen=True)
class TrainedLayer:
    """One layer of the trained part. `method`: of `sdk.planner.training.records.CHOICES`; rank: columns of its basis, 0 without one."""

    name: str
    op: str
    method: str
    rank: int
    channels: int  # input channels whose weights learn; 0: all, or none of them
    stored: str  # data type of the basis in flash ("float32", "int8") or of the weights that learn ("int8")
    node: str  # in the graph


@dataclass(frozen=True)
class TrainedVariable:
    """A variable in RAM: `part` is "weight", "adapter", "bias" or "hyper"; `momentum` marks the optimiser's own."""

    name: str
    layer: str
    part: str
    shape: tuple[int, ...]
    dtype: str
    momentum: bool = False
    initial: np.ndarray | None = field(default=None, repr=False, compare=False)  # None: zeros

    @property
    def size_bytes(self) -> int:
        """Bytes in RAM."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class TrainingUse:
    """A step of training as it was planned.

    forward_steps: kernel calls, the first of the plan, that compute the logits: running only these is inference with the trained weights.
    bytes: of the arena at the step with the most live bytes, by class. "saved" and "masks" wait there for the backward pass;
    "transients" is everything else that is alive, the arena's unused bytes included.
    inference_arena_bytes, inference_ram_bytes: of the same model on the same device without training. budget_bytes: of RAM, in all.
    graph, real: the model this is a step of, and the float graph its integers came from; bases: layer -> U [C, K], what its adapter's P is
    multiplied with. All three serve to merge what was learnt, and are not written to files.
    """

    layers: tuple[TrainedLayer, ...]
    variables: tuple[TrainedVariable, ...]
    label: str
    loss: str
    logits: str
    hyper: str
    forward_steps: int
    bytes: Mapping[str, int]
    optimiser: str
    learning_rate: float
    momentum: float
    inference_arena_bytes: int = 0
    inference_ram_bytes: int = 0
    saved_tensors: tuple[str, ...] = ()
    budget_bytes: int | None = None
    graph: Graph | None = field(default=None, repr=False, compare=False)
    real: Graph | None = field(default=None, repr=False, compare=False)
    bases: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bases", MappingProxyType(dict(self.bases)))
        object.__setattr__(self, "bytes", MappingProxyType({name: int(self.bytes.get(name, 0)) for name in CLASSES}))

    @property
    def trained(self) -> tuple[TrainedLayer, ...]:
        """The layers of which something learns."""
        return tuple(layer for layer in self.layers if layer.method != "freeze")

    @property
    def state_bytes(self) -> int:
        """Variables in RAM, the optimiser's own included."""
        return sum(v.size_bytes for v in self.variables)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_PLAIN}
        return {
            **plain, "saved_tensors": list(self.saved_tensors), "bytes": dict(self.bytes), "layers": [vars(layer) for layer in self.layers],
            "variables": [{**{k: v for k, v in vars(x).items() if k != "initial"}, "shape": list(x.shape)} for x in self.variables],
        }  # fmt: skip


def inference_part(graph: Graph, use: TrainingUse) -> Graph:
    """The first nodes of a step, from the model's input to the logits: inference with the weights as they are."""
    last = next(i for i, node in enumerate(graph.nodes) if use.logits in node.outputs)
    return graph.with_nodes(graph.nodes[: last + 1], inputs=graph.inputs[:1], outputs=(use.logits,))


def training_from_dict(data: Mapping[str, Any]) -> TrainingUse:
    """What `TrainingUse.to_dict` wrote; initial values are not in it."""
    return TrainingUse(**{
        **data, "layers": tuple(TrainedLayer(**row) for row in data["layers"]), "saved_tensors": tuple(data["saved_tensors"]),
        "variables": tuple(TrainedVariable(**{**row, "shape": tuple(row["shape"])}) for row in data["variables"]),
    })  # fmt: skip


def training_text(use: TrainingUse, arena_bytes: int, ram_bytes: int) -> str:
    """The report's paragraph: which layers learn, what a step holds, and what it adds to an inference."""
    lines = [f"Training: {len(use.trained)} of {len(use.layers)} layers learn by {use.optimiser}, one sample a step, {use.state_bytes:,} bytes of variables"]
    parts = "  ".join(f"{name} {size:,}" for name, size in use.bytes.items() if size)
    lines.append(f"    at the fullest step: {parts}")
    if use.inference_arena_bytes:
        arena, ram = arena_bytes - use.inference_arena_bytes, ram_bytes - use.inference_ram_bytes
        lines.append(f"    {arena:,} bytes of arena and {ram:,} of RAM more than inference alone")
    lines += [f"    {layer.name}: {_told(layer)}" for layer in use.trained]
    return "\n".join(lines)


def _told(layer: TrainedLayer) -> str:
    match layer.method:
        case "adapter" | "fixed":
            return f"{layer.method} of rank {layer.rank}, its basis in {layer.stored}"
        case "channels":
            return f"weights of the first {layer.channels} input channels"
        case "bias":
            return "bias"
    return f"all weights{', as int8' if layer.stored == 'int8' else ''}"
