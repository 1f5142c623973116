"""`embarq train`: a model learns where it runs, and what was learned becomes a new artifact when it is no worse."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from sdk.commands.board import Folder, Port, open_session
from sdk.commands.build import labelled
from sdk.commands.common import Debug, Json, Printer, Quiet, Seed, size
from sdk.errors import UsageError, VerificationFailed

Data = Annotated[str, typer.Option("--data", "-d", metavar="DATA.npz", help="Inputs x (n, ...) and labels y (n) to learn from.")]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the new artifact goes; in place of the old one when left out.")]
Epochs = Annotated[int, typer.Option("--epochs", metavar="N", help="How often every sample is learned from.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", metavar="RATE", help="In place of the plan's.")]
Decay = Annotated[bool, typer.Option("--decay", help="Let the rate fall along half a cosine: steadier at the end.")]
HeldOut = Annotated[float, typer.Option("--held-out", metavar="SHARE", help="Share of the samples to judge by; never learned from.")]
Patience = Annotated[int, typer.Option("--patience", metavar="N", help="Stop after N epochs without a better held-out accuracy; 0: never.")]
Log = Annotated[str | None, typer.Option("--log", metavar="FILE.jsonl", help="Write every update, one JSON object a line.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the device's last checkpoint.")]
NoWrite = Annotated[bool, typer.Option("--dry-run", help="Train and judge, and write nothing.")]


def train(
    artifact: Folder,
    data: Data,
    port: Port = None,
    output: Output = None,
    epochs: Epochs = 1,
    learning_rate: Rate = None,
    decay: Decay = False,
    held_out: HeldOut = 0.2,
    patience: Patience = 0,
    resume: Resume = False,
    log: Log = None,
    dry_run: NoWrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> int:
    """Let the model learn on its device, this computer or an emulated board; keep what it learned when it is no worse.

    The artifact must have been compiled to learn (embarq compile --train ...). Some samples are held back; when the trained model
    judges them worse than before, nothing is written and the device goes on with what it had (exit code 5).

    \b
    [dim]Examples:[/dim]
      embarq train out/ --data new.npz --epochs 5
      embarq train out/ --data new.npz --to ssh://pi@raspberrypi.local -o out2/
      embarq train out/ --data new.npz --to /dev/ttyACM0 --log train.jsonl
    """
    import sdk

    out = Printer(as_json, quiet)
    opened = sdk.open(artifact)
    if "training" not in opened.manifest:
        how = "embarq compile DEVICE MODEL -c DATA.npz --train layers=auto"
        raise UsageError(f"{artifact} was compiled for inference only; compile it to learn, as in: {how}")
    x, y = labelled(data)
    options: dict[str, Any] = {
        "epochs": epochs, "learning_rate": learning_rate, "decay": decay, "held_out": held_out, "patience": patience, "seed": seed,
    }  # fmt: skip
    if opened.is_linux:
        options["resume"] = resume
    elif resume:
        raise UsageError(f"{artifact} is for a microcontroller, which goes on from what it committed by itself; leave --resume out")
    else:
        options["commit"] = False  # only after the held-back samples were judged
    with open_session(out, opened, port) as session:
        with _log(log) as note, _live(out, epochs) as show:
            try:
                result = session.train(x, y, on_step=_both(note, show), **options)
            except KeyboardInterrupt:
                how = "go on from there with --resume" if opened.is_linux else "they are the board's until it is reset"
                sys.stderr.write(f"embarq: stopped; {artifact} is as it was, and the values learned so far are kept: {how}\n")
                raise
        if not result.no_worse:
            session.forget()
            raise VerificationFailed(_worse(result, artifact))
        where = output if output is not None else artifact
        if dry_run:
            session.forget()
        else:
            _keep(out, session, where, port)
    told = {**result.to_dict(), "artifact": None if dry_run else where}
    out.show(told, str(result), "nothing was written (--dry-run)" if dry_run else f"{where}: the trained model; next: embarq flash {where}")
    return 0


def _keep(out: Printer, session: Any, where: str, port: str | None) -> None:
    """The new artifact on disk, then on the device: a board's flash, or a proved version beside the old one over SSH."""
    with out.progress("keeping what was learned") as progress:
        made = session.trained_artifact(progress)
        made.save(where)
        if not made.is_linux:
            session.commit()
            return
        session.forget()  # the checkpoint: what it holds is in the artifact now
        if port is not None and port.startswith("ssh://"):
            session.close()
            with open_session(out, made, port, verify=True):
                pass


def training_of(wishes: list[str] | None) -> Any:
    """`sdk.Training` from ["budget=64KiB", "layers=last4"]; several may stand in one text, with commas. None when there are none.

    Raises UsageError for a name it does not have or a value that does not fit.
    """
    import sdk

    if not wishes:
        return None
    kinds = {f.name: str(f.type) for f in fields(sdk.Training)}
    given: dict[str, Any] = {}
    for wish in (part.strip() for text in wishes for part in text.split(",")):
        name, equals, value = wish.partition("=")
        name = name.strip().replace("-", "_")
        if name not in kinds or not equals:
            raise UsageError(f"--train {wish!r} is not known; write NAME=VALUE with one of {', '.join(kinds)}")
        given[name] = _value(name, value.strip(), kinds[name])
    if "layers" in given and "+" in given["layers"]:
        given["layers"] = given["layers"].split("+")
    return sdk.Training(**given)


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "bool":
        if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
            raise UsageError(f"--train {name}={text} is neither true nor false; give one of them")
        return text.lower() in ("true", "yes", "1")
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except ValueError:
        raise UsageError(f"--train {name}={text} is no {'whole number' if kind == 'int' else 'number'}; give one, as in {name}=1") from None


def _worse(result: Any, artifact: str) -> str:
    before, after = 100 * result.accuracy_before, 100 * result.accuracy
    return (
        f"the trained model is worse on {result.held_out} held-back samples ({after:.2f} % after, {before:.2f} % before), so {artifact} and the device "
        "keep what they had; try a lower --learning-rate, more epochs or more samples"
    )


def _both(note: Callable[[Any], None], show: Callable[[Any], None]) -> Callable[[Any], None]:
    def on_step(step: Any) -> None:
        note(step)
        show(step)

    return on_step


@contextmanager
def _log(path: str | None) -> Iterator[Callable[[Any], None]]:
    """Every update as a line of JSON, on disk as soon as it is known."""
    if path is None:
        yield lambda _step: None
        return
    try:
        file: TextIO = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"the log {path} cannot be written ({error.strerror}); give another file") from error
    with file:
        yield lambda step: print(json.dumps(step.to_dict()), file=file)


@contextmanager
def _live(out: Printer, epochs: int) -> Iterator[Callable[[Any], None]]:
    """A line on the terminal with the loss, the held-out accuracy and the memory while they change."""
    if out.as_json or out.quiet or not sys.stderr.isatty():
        yield lambda _step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending the samples", total=None)
        smooth: list[float] = []
        held: list[str] = []

        def show(step: Any) -> None:
            smooth.append(step.loss if not smooth else 0.9 * smooth[-1] + 0.1 * step.loss)
            if step.held_out is not None:
                held[:] = [f"held-out {100 * step.held_out:.2f} %"]
            memory = [size(step.memory_bytes)] if step.memory_bytes else []
            words = [f"epoch {step.epoch} of {epochs}", f"loss {smooth[-1]:.4f}", *held, *memory]
            bar.update(task, description=", ".join(words), completed=step.step, total=step.of or None)

        yield show
