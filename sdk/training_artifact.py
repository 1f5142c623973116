"""The artifact of a model that learns on a Linux device: an exported program with a free batch, how each layer learns, golden vectors.

torch runs it between updates, so `flash`, `verify`, `run` and `profile` are those of every Linux artifact; `session.train` is what it adds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdk.backends.payload import Payload, Port
from sdk.errors import DoesNotFit
from sdk.golden import Golden, random_inputs

Progress = Callable[[str], None]
#: Largest relative difference between two machines' float kernels.
TOLERANCE = 1e-3
VECTORS = 3


def training_parts(plan: Any, progress: Progress | None = None) -> tuple[Payload, Golden]:
    """(payload, golden vectors) of a `TrainingPlan`. Raises `DoesNotFit` when the plan does not fit."""
    from sdk.training.payload import exported_program, training_payload

    if not plan.fits:
        over = "; ".join(str(s) for s in plan.shortfall)
        mend = f"; try: {plan.mends[0]}" if plan.mends else ""
        raise DoesNotFit(f"training {plan.name} does not fit {plan.device.name}: {over}{mend}")
    tell = progress or (lambda _: None)
    tell("exporting the program")
    graph = plan.model.graph
    inputs = [Port(name, graph[name].shape, graph[name].dtype) for name in graph.inputs]
    program = exported_program(plan.program)
    tell("golden vectors")
    vectors = random_inputs(graph, VECTORS)
    outputs = outputs_of(program, vectors)
    ports = [Port(name, array.shape, str(array.dtype)) for name, array in zip(graph.outputs, outputs[0], strict=True)]
    from dataclasses import replace

    training = replace(plan.training, micro_batch=plan.micro_batch)
    payload = training_payload(program, plan.choices, training, plan.calibration, inputs, ports, plan.threads)
    return payload, Golden(tuple(vectors), tuple(tuple(row) for row in outputs), tuple(() for _ in vectors))


def outputs_of(program: bytes, inputs: Sequence[tuple[np.ndarray, ...]]) -> list[list[np.ndarray]]:
    """What the `.pt2` in `program` computes here for each of `inputs`."""
    from sdk.runner.torch_engine import TorchEngine

    with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
        path = Path(folder) / "program.pt2"
        path.write_bytes(program)
        engine = TorchEngine(str(path), 1, {})
        return [engine.run(list(row)) for row in inputs]
