"""The twelve commands as one typer application."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import sdk
from sdk.commands import board, build, calibrate, facts, fit, train

COMMANDS = (
    facts.devices, facts.ops, facts.inspect,
    build.plan, build.compile, fit.fit,
    board.verify, board.flash, board.run, board.profile,
    calibrate.calibrate, train.train,
)  # fmt: skip


def make_app() -> typer.Typer:
    """The command line as a typer application."""
    app = typer.Typer(
        name="embarq",
        help="Say before anything is flashed whether a model fits a device and why; compile it, put it there, prove it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes: 0 ok, 1 internal, 2 usage, 3 does not fit, 4 unsupported, 5 verification failed, 6 device or link, "
        "7 signature, 8 version.",
    )
    app.callback()(_top)
    for command in COMMANDS:
        app.command()(command)
    return app


def run(args: Sequence[str]) -> int:
    """Run one command; its exit code. Raises whatever it raises, KeyboardInterrupt for Ctrl-C, BrokenPipeError for a reader that left."""
    try:
        code = make_app()(args=list(args), prog_name="embarq", standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except SystemExit as error:  # how typer ends when the reader of the output has left
        raise BrokenPipeError from error
    sys.stdout.flush()
    if code == 130:  # how typer says that Ctrl-C was pressed
        raise KeyboardInterrupt
    return int(code or 0)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"embarq {sdk.__version__}\n")
        raise typer.Exit


def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass
