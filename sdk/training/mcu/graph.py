"""From an inference graph to the graph of one training step: forward, loss, and backward with every update in its place.

    graph = training_graph(int8_graph, choices, bases, Training(optimiser="sgd", learning_rate=0.01))

The step's inputs are the model's own and `label` int32 [1]; its outputs are `loss` float32 [1] and the logits. Its first nodes, down to the
logits, are the model with the weights as they are now. What learns is a variable: weights [O, KH, KW, C] float32 (or int8), adapters
[O, KH, KW, K], biases [O], the optimiser's momenta, and `hyper`, float32 [4], which the host may write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.backward import Backward
from sdk.training.mcu.layers import find_layers
from sdk.training.mcu.split import Split, split
from sdk.training.mcu.treat import Treatment, Variable, treat, variables_of

LABEL, LOSS = "label", "loss"


@dataclass(frozen=True)
class StepGraph:
    """The graph of a step and what it was made of. `forward`: how many of its nodes come before the loss."""

    graph: Graph
    forward: int
    logits: str
    treatments: tuple[Treatment, ...] = field(repr=False)
    variables: tuple[Variable, ...] = field(repr=False)
    split: Split = field(repr=False)
    saved: tuple[str, ...] = ()  # tensors of the forward pass that the backward pass reads, masks left out
    masks: tuple[str, ...] = ()

    @property
    def inference(self) -> Graph:
        """The first nodes alone: from the model's input to the logits."""
        return self.graph.with_nodes(self.graph.nodes[: self.forward], inputs=self.graph.inputs[:1], outputs=(self.logits,))


def training_graph(
    graph: Graph, choices: Sequence[Choice], bases: Mapping[str, np.ndarray], training: Training, spectra: Mapping[str, np.ndarray] = MappingProxyType({})
) -> Graph:
    """The step as a graph. Raises UsageError for layers or methods that are not there, UnsupportedOp for an op without a gradient."""
    return step_graph(graph, choices, bases, training, spectra).graph


def step_graph(
    graph: Graph, choices: Sequence[Choice], bases: Mapping[str, np.ndarray], training: Training, spectra: Mapping[str, np.ndarray] = MappingProxyType({})
) -> StepGraph:
    """`training_graph` with everything that planning and proving want to know of it.

    graph: through its passes, int8 or float32. bases: layer name -> eigenvectors [C, C]; spectra: their eigenvalues, for ranks by energy.
    """
    treatments = treat(find_layers(graph), choices, bases, spectra)
    learning = [t.layer.node.name for t in treatments if t.trains]
    if not learning:
        raise UsageError(f"nothing of {graph.name} is to be trained; choose at least one layer")
    cut = split(graph, learning)
    inside = {node.name for node in cut.live}
    live = tuple(t for t in treatments if t.layer.node.name in inside)
    variables = variables_of(live, training)
    writer = Backward(cut, live, variables, training)
    writer.forward()
    count = len(writer.nodes)
    writer.loss(LABEL, LOSS)
    writer.backward()
    return StepGraph(writer.graph(LABEL, LOSS), count, writer.logits, live, variables, cut, *writer.waiting(count))
