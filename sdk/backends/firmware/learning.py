"""The C of a model that learns, behind that of the model: the whole step, its variables with their start values, `embarq_training`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdk.backends.firmware.emit import Place, c_ref, c_string, model_struct, tensor_table, written_array
from sdk.graph.ir import Graph
from sdk.planner.mcu_training import TrainingUse


def training_tables(
    ident: str, name: str, graph: Graph, use: TrainingUse, place: Place, steps: int, arena_bytes: Sequence[int]
) -> list[str]:
    """C text, in order: the step as a model over the same table of steps, the variables, and the one symbol `<ident>_training`."""
    parts = [tensor_table("step_inputs", graph, graph.inputs, place), tensor_table("step_outputs", graph, graph.outputs, place)]
    parts.append(model_struct("static const embarq_model step_model", name, "step_", (len(graph.inputs), len(graph.outputs), steps), arena_bytes))
    rows = []
    for index, variable in enumerate(use.variables):
        initial = "0"
        if variable.initial is not None:
            initial = f"v{index}"
            parts.append(written_array(initial, np.ascontiguousarray(variable.initial)))
        rows.append(f"    {{{c_string(variable.name)}, {c_ref(place(variable.name))}, {variable.size_bytes}u, {initial}}}")
    parts.append(f"\nstatic const embarq_variable variables[{len(rows)}] = {{\n" + ",\n".join(rows) + "\n};")
    hyper = c_ref(place(use.hyper))
    parts.append(f"\nconst embarq_training {ident}_training = {{&step_model, &{ident}_model, variables, {len(rows)}u, {hyper}}};")
    return parts


def bound_training(ident: str, learns: bool) -> list[str]:
    """The lines of bind.c that main.c looks for: what learns, and the code that this takes, or nothing of both."""
    training, learning = (f"&{ident}_training", "&embarq_learning_here") if learns else ("0", "0")
    return [
        f"extern const embarq_training *const embarq_the_training;\nconst embarq_training *const embarq_the_training = {training};",
        *(["extern const embarq_learning embarq_learning_here;"] if learns else []),
        f"extern const embarq_learning *const embarq_the_learning;\nconst embarq_learning *const embarq_the_learning = {learning};",
    ]
