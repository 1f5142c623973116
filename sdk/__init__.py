"""embarq: say before anything is flashed whether a model fits a device and why; compile it, put it there, prove it.

>>> import sdk
>>> plan = sdk.plan("stm32f405", "kws.tflite")      # doctest: +SKIP
>>> artifact = sdk.compile(plan)                    # doctest: +SKIP
>>> session = artifact.flash("emulator")            # doctest: +SKIP
>>> session.run(x)                                  # doctest: +SKIP

Importing this package loads nothing heavy: torch, onnx, the compiler and the emulator are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from sdk.planner.training.spec import Training

if TYPE_CHECKING:
    from sdk.artifact import Artifact
    from sdk.fitting import Fitted
    from sdk.model import Model
    from sdk.planner.linux_records import LinuxPlan
    from sdk.planner.plan import Budget, Plan
    from sdk.planner.training.plan import TrainingPlan
    from targets.device import Device

__version__ = "0.1.0"
__all__ = ["Training", "__version__", "compile", "fit", "load", "moofa", "open", "plan", "tlc"]
#: Parts that are imported when they are first asked for: `sdk.moofa.search(...)`, `sdk.tlc.collapse(...)`.
_PARTS = ("moofa", "tlc")


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module 'sdk' has no attribute {name!r}")
    from importlib import import_module

    return import_module(f"sdk.{name}")


def load(
    source: Any, example: Any = None, *, name: str | None = None, input_layout: str | None = None, prepare: Sequence[Callable[[Any], Any]] = (),
    batch: int | None = None,
) -> Model:  # fmt: skip
    """Read a model: an `nn.Module` with an `example` input, or a `.pt2`, `.onnx` or `.tflite` file.

    example: for an .onnx file only where its shapes are not fixed: its shape stands for them.
    input_layout: "nhwc" to hand a channel-first torch or ONNX model channel-last inputs, so that the device need not transpose.
    prepare: functions from a module to a module, applied to a copy of a torch module before it is exported.
    batch: the first dimension of every input of an .onnx file that leaves it open.
    Raises `ModelError` for a damaged model, `UsageError` for something that is no model.
    """
    from sdk.model import load as read

    return read(source, example, name=name, input_layout=input_layout, prepare=prepare, batch=batch)


@overload
def plan(device: Device | str) -> Budget:
    """What the device has to spend."""


@overload
def plan(device: Device | str, work: Any, **options: Any) -> Plan | LinuxPlan | TrainingPlan:
    """Whether and how the model fits."""


def plan(device: Device | str, work: Any = None, **options: Any) -> Plan | LinuxPlan | TrainingPlan | Budget:
    """What `device` has to spend or, given a model, whether the model fits and how it will lie in memory.

    device: a name (`embarq devices`), the path of a device file, or a `Device`.
    work: a `Model`, or anything `load` takes without an example.
    options: see `sdk.planning.plan_model`: calibration, precision, quant, keep_input, in_place, vectors, compiler, training; for Linux devices
    also backend, threads, evaluation, accuracy_drop_points, target.
    Never raises for "too big": look at `plan.fits`, `plan.shortfall` and `plan.mends`.
    """
    from sdk.planning import plan_device, plan_model

    return plan_device(device, **options) if work is None else plan_model(device, work, **options)


def compile(plan: Plan | LinuxPlan | TrainingPlan, progress: Callable[[str], None] | None = None) -> Artifact:
    """Write the artifact that `plan` describes; it decides nothing itself.

    progress: called with one short line per thing done.
    Raises `DoesNotFit` when `plan.fits` is false, `ToolError` when the compiler is missing.
    """
    from sdk.artifact import compile_plan

    return compile_plan(plan, progress)


def open(folder: str | Path) -> Artifact:
    """Read an artifact folder; every file's hash is checked.

    Raises `UsageError` when it is damaged and `VersionMismatch` when it is of a format this release does not read.
    """
    from sdk.artifact import open_artifact

    return open_artifact(folder)


def fit(device: Device | str, task: str = "cifar10", **options: Any) -> Fitted:
    """A trained and compiled network for `device`, out of a supernet that ships with this package; nothing is trained for it.

    options: see `sdk.fitting.fit`: budget ("24KiB" of RAM, or several limits), data=(pictures, labels) of your own to learn, tune "head" or "all".
    Raises `DoesNotFit` with the smallest budget that would do.

    >>> fitted = sdk.fit("stm32f746", budget="24KiB")     # doctest: +SKIP
    >>> fitted.artifact.save("out/")                      # doctest: +SKIP
    """
    from sdk.fitting import fit as make

    return make(device, task, **options)
