"""`embarq fit`: a trained, compiled, proved network for a device, from the supernets that ship with the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sdk.commands.build import First, labelled
from sdk.commands.common import Debug, Json, Printer, Quiet, Seed, device_and_model
from sdk.errors import UsageError

_LIMITS: Any = {"rich_help_panel": "What the network may take (by default, all that the device has free)"}
_OWN: Any = {"rich_help_panel": "Your own pictures"}
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME|FILE", help="The device, when it is not an argument.")]
Task = Annotated[str, typer.Option("--task", metavar="NAME", help="What the network is to know: cifar10, ten kinds of things and animals.")]
Output = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the artifact goes; one already there is replaced.")]
Ram = Annotated[str | None, typer.Option("--ram", metavar="BYTES", help="RAM of the inference's buffers, as in 24KiB.", **_LIMITS)]
Flash = Annotated[str | None, typer.Option("--flash", metavar="BYTES", help="Flash for weights and code, as in 300KiB.", **_LIMITS)]
Latency = Annotated[float | None, typer.Option("--latency-ms", metavar="MS", help="Time of an inference, by the planner's estimate.", **_LIMITS)]
Macs = Annotated[float | None, typer.Option("--macs", metavar="N", help="Multiply-accumulates of an inference.", **_LIMITS)]
Data = Annotated[str | None, typer.Option("--data", "-d", metavar="DATA.npz", help="Pictures x, uint8 (n, height, width, 3), and labels y (n).", **_OWN)]
Tune = Annotated[str, typer.Option("--tune", metavar="head|all", help="What learns them: the classifier, in seconds, or the whole network.", **_OWN)]
Epochs = Annotated[float, typer.Option("--epochs", metavar="N", help="How often --tune all sees every picture.", **_OWN)]
HeldOut = Annotated[float, typer.Option("--held-out", metavar="SHARE", help="Share of the pictures that only judges.", **_OWN)]
NoProof = Annotated[bool, typer.Option("--no-verify", help="Do not prove it on the emulated device, or on this computer for a Linux one.")]


def fit(
    device: First = None,
    device_option: DeviceOption = None,
    task: Task = "cifar10",
    output: Output = "out",
    ram: Ram = None,
    flash: Flash = None,
    latency_ms: Latency = None,
    macs: Macs = None,
    data: Data = None,
    tune: Tune = "head",
    epochs: Epochs = 10,
    held_out: HeldOut = 0.2,
    no_verify: NoProof = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Make a trained network for a device: chosen by its memory and speed, compiled, and proved on the emulated device. No training.

    A subnet is taken out of a supernet that ships with this package. With --data it learns your classes instead of the task's own.

    \b
    [dim]Examples:[/dim]
      embarq fit --device stm32f746 --task cifar10 -o out/
      embarq fit stm32l4r5 --ram 16KiB --latency-ms 150 -o out/
      embarq fit stm32f746 --data mine.npz --tune all -o out/
    """
    from sdk.fitting import fit as make

    out = Printer(as_json, quiet)
    name, model = device_and_model(device, None, device_option)
    if model is not None:
        raise UsageError(f"fit makes the network itself and takes no model ({model}); give a device, or use embarq compile")
    limits = {"arena_bytes": ram, "flash_bytes": flash, "latency_ms": latency_ms, "macs": macs}
    budget = {key: value for key, value in limits.items() if value is not None} or None
    own: dict[str, Any] = {} if data is None else {"data": labelled(data), "tune": tune, "epochs": epochs, "held_out": held_out}
    with out.progress(f"fitting {task} to {name}") as say:
        fitted = make(name, task, budget=budget, seed=seed, say=say, report=lambda progress: say(str(progress)), **own)
        say("writing")
        fitted.artifact.save(output)
        proved = None if no_verify else _proved(fitted.artifact, say)
    facts = Path(output).with_name(Path(output).name + ".fit.json")
    facts.write_text(json.dumps(fitted.to_dict(), indent=1, default=float) + "\n", encoding="utf-8")
    where = "emulator" if not fitted.artifact.is_linux else "local"
    proof = "It was not proved (--no-verify)." if proved is None else proved
    told = {**fitted.to_dict(), "artifact": output, "verified": proved is not None}
    written = f"{output}: written, how it was chosen in {facts}"
    out.show(told, str(fitted), proof, written, f"next: embarq flash {output} --to {where}      embarq inspect {output}")


def _proved(artifact: Any, say: Callable[[str], None]) -> str:
    """Every golden vector on the emulated device, or on this computer. Raises VerificationFailed."""
    say("proving it")
    with artifact.flash(progress=lambda *_: None):
        pass
    where = "this computer" if artifact.is_linux else f"the emulated {artifact.device.name}"
    return f"Proved on {where}: every golden vector gives the planned outputs."
