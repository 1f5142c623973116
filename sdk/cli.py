"""The command line `embarq`: runs a command and turns whatever goes wrong into one sentence and an exit code.

The commands are in `sdk/commands`. They are imported inside `main`, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from sdk.errors import EmbarqError, UsageError

INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Never lets a traceback out unless --debug or EMBARQ_DEBUG asks for it."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        from sdk.commands.app import run

        return run(args)
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        sys.stderr.write("embarq: stopped; nothing half-done was left behind\n")
        return INTERRUPTED
    except Exception as error:
        return _report(error, args)


def _report(error: Exception, args: Sequence[str]) -> int:
    """Print one sentence (JSON with --json) about `error` on stderr; its exit code."""
    if os.environ.get("EMBARQ_DEBUG", "") not in ("", "0") or "--debug" in args:
        traceback.print_exception(error)
    kind, message, code = _describe(error)
    if not message:  # `embarq` alone: typer has printed the help
        return code
    error_object = {"error": {"type": kind, "message": message, "exit_code": code}}
    sys.stderr.write((json.dumps(error_object) if "--json" in args else f"embarq: {message}") + "\n")
    return code


def _describe(error: Exception) -> tuple[str, str, int]:
    """The error's class, sentence and exit code."""
    if isinstance(error, EmbarqError):
        return type(error).__name__, str(error), error.exit_code
    if hasattr(error, "format_message"):  # what typer itself found wrong with the arguments
        return "UsageError", _usage_sentence(error), UsageError.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        mend = "free some space" if error.errno == errno.ENOSPC else "check the path and its permissions"
        return "UsageError", f"cannot read or write{where}: {error.strerror}; {mend}", UsageError.exit_code
    what = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
    return "InternalError", f"a defect of ours ({what}); please report it with what the same command prints under --debug", 1


def _usage_sentence(error: Any) -> str:
    message = error.format_message().rstrip(".")
    if not message:
        return ""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "embarq"
    return f"{message}; see: {command} --help"


def _reader_left() -> int:
    """`embarq ops | head`: whoever read the output has enough; end in silence, at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
