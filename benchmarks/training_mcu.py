"""A training step on an emulated microcontroller: memory in all, instructions over those of an inference, error against torch.

The step is planned, compiled, flashed to the emulator and run there by the same calls that a user makes. An inference is that of the
whole int8 net without learning. The error is the largest difference of a learned value from torch in double precision after `STEPS`
steps, relative to the largest value of its tensor. "last2" is the classifier and adapters on the layer in front of it, "last10"
that and the last four blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import har, small_nets, training_nets, training_tasks
from benchmarks.rows import Row

STEPS = 4


@dataclass(frozen=True)
class Configuration:
    """A net, its board, what of it learns. samples: (inputs [n, ...] float32 channels first, labels [n])."""

    net: Callable[[], Any]
    samples: Callable[[], tuple[np.ndarray, np.ndarray]]
    layers: str
    device: str = "stm32f746"
    quick: bool = False
    budget: str | None = None  # of RAM in all: arena, data, stack
    ranks: Mapping[str, int] = field(default_factory=dict)  # layer -> rank of its adapter; the classifier learns whole beside them
    channels_last: bool = False  # as a camera gives pictures


def mobilenet() -> Any:
    """MobileNetV2-0.35 for 96x96 pictures: the trained net for 32x32, whose first convolution goes two pixels a step as published."""
    net = small_nets.pretrained("mobilenetv2_035")
    net[0][0].stride = (2, 2)
    return net


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """64 training pictures enlarged to 96x96, and labels."""
    x, y = training_nets.training_pictures()
    return training_nets.to_input(x[:64], 96), y[:64]


def windows() -> tuple[np.ndarray, np.ndarray]:
    """128 windows of the watch of a person the movement net never saw."""
    part = training_tasks.person_parts("watch", "phone", har.CHOSEN_ON[:1])[0]
    return part.x[:128], part.y[:128]


CONFIGURATIONS: dict[str, Configuration] = {
    "har_last4": Configuration(lambda: har.pretrained("phone"), windows, "last4", quick=True),
    "mobilenetv2_035_96_last2": Configuration(mobilenet, pictures, "last2", "stm32l4r5"),
    "mobilenetv2_035_96_last10": Configuration(mobilenet, pictures, "last10", "stm32l4r5"),
    "mobilenetv2_035_96_64KiB": Configuration(mobilenet, pictures, "auto", "stm32l4r5", budget="64KiB", channels_last=True),
    "mobilenetv2_035_96_adapters": Configuration(
        mobilenet, pictures, "", "stm32l4r5", ranks={"16.body.2.0": 16, "17.body.2.0": 16}, channels_last=True
    ),
    "mobilenetv2_035_96_four_blocks": Configuration(
        mobilenet, pictures, "", "stm32l4r5", channels_last=True,
        ranks={f"{block}.body.{part}.0": 8 for block in (14, 15, 16, 17) for part in (0, 2)} | {"18.0": 8},
    ),
}


def cases(quick: bool) -> Iterator[list[Row]]:
    """The rows of every configuration; with `quick` of those that take seconds."""
    for name, configuration in CONFIGURATIONS.items():
        if configuration.quick or not quick:
            yield measured(name, configuration)


def measured(name: str, wish: Configuration) -> list[Row]:
    """Plan, compile, flash to the emulator, and take some steps there."""
    import torch

    import sdk
    from sdk.training.mcu.plan import learner

    x, y = wish.samples()
    layout = {"input_layout": "nhwc"} if wish.channels_last else {}
    model = sdk.load(wish.net(), example=torch.zeros(1, *x.shape[1:]), name=name, **layout)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if wish.channels_last else x
    training = sdk.Training(layers=wish.layers or "auto", learning_rate=0.01, batch=1, budget=wish.budget)
    made = learner(wish.device, model, training, x)
    plan = made.plan(_ranked(made, wish.ranks)) if wish.ranks else sdk.plan(wish.device, model, calibration=(x, y), training=training)
    if not plan.fits:
        raise RuntimeError(f"{name} does not fit {wish.device}: {plan.shortfall}")
    with sdk.compile(plan).flash("emulator") as session:
        session.forget(everything=True)
        result = session.train(list(zip(x[:STEPS], y[:STEPS], strict=True)), commit=False)
        learned, stack = session.pull(), session.board.memory().used_bytes
    steps = result.instructions
    inference = inference_instructions(wish.device, model, x)
    wanted = by_torch(made, plan, x[:STEPS], y[:STEPS])
    case = f"mcu/{name}"
    return [
        Row(case, "ram_total_bytes", plan.ram_bytes, "bytes", "lower", {"inference alone": plan.training.inference_ram_bytes}),
        Row(case, "ram_used_stack_bytes", stack, "bytes", "lower"),
        Row(case, "training_state_bytes", plan.training.state_bytes, "bytes", "lower"),
        Row(case, "layers_that_learn", len(plan.training.trained), "layers", "higher"),
        Row(case, "step_instructions", steps, "instructions", "lower", {"inference": inference}),
        Row(case, "step_over_inference", steps / inference, "ratio", "lower"),
        Row(case, "max_relative_error", relative_error(learned, wanted), "fraction", "lower"),
    ]


def _ranked(made: Any, ranks: Mapping[str, int]) -> list[Any]:
    """Adapters of the ranks asked for, and the classifier whole."""
    from sdk.planner.training.records import Choice
    from sdk.training.mcu.layers import find_layers

    rows = [Choice(name, "adapter", ranks=(0, 0, rank)) for name, rank in ranks.items()]
    return [*rows, Choice(find_layers(made.graph)[-1].name, "exact")]


def inference_instructions(device: str, model: Any, calibration: np.ndarray) -> int:
    """Of one inference of the int8 net that does not learn, on the emulated board."""
    import sdk

    with sdk.compile(sdk.plan(device, model, calibration=calibration)).flash("emulator") as session:
        return int(session.profile().instructions or 0)


def by_torch(made: Any, plan: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Every learned value after the same steps in double precision, behind the same int8 part."""
    from sdk.golden import check_input
    from sdk.graph.interpreter import run
    from sdk.training.mcu.choices import choices_of
    from sdk.training.mcu.reference import Reference

    step, _ = made.step(choices_of(plan.training))
    reference, graph = Reference(step.split, step.treatments, step.variables, made.training), step.split.graph
    for sample, label in zip(x, y, strict=True):
        values = run(graph, {graph.inputs[0]: check_input(graph[graph.inputs[0]], sample[None])}, keep=True)
        reference.step({name: values[name] for name in step.split.boundary}, int(label))
    return dict(reference.arrays())


def relative_error(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """Largest difference of a value, relative to the largest value of its tensor; over the tensors that were pulled."""
    names = [name for name in found if name in wanted]
    return max(float(np.abs(found[n] - wanted[n]).max() / max(np.abs(wanted[n]).max(), 1e-9)) for n in names)


def accuracy_on_board(net: Any, part: Any, training: Any, epochs: int, device: str = "stm32f746") -> float:
    """A user's samples learned on the emulated board, one at a time, and their test samples answered there with what was learned.

    The net is quantised with what it was trained on; training: a `sdk.Training`, whose seed mixes the samples.
    """
    import torch

    import sdk

    model = sdk.load(net, example=torch.zeros(1, *part.x.shape[1:]), name="learning")
    plan = sdk.plan(device, model, calibration=part.known, training=training)
    if not plan.fits:
        raise RuntimeError(f"{training.layers} does not fit {device}: {plan.shortfall}")
    mixed = np.random.default_rng(training.seed).permutation(len(part.y))
    with sdk.compile(plan).flash("emulator") as session:
        session.forget(everything=True)
        session.train([(part.x[i], int(part.y[i])) for i in mixed], epochs=epochs, seed=training.seed, commit=False)
        answers = [int(np.asarray(out).argmax()) for out in session.run_each(part.tx)]
    return float((np.array(answers) == part.ty).mean())
