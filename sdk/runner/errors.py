"""Everything the runner refuses, each with the exit code that the host's command line gives the same fault."""

from __future__ import annotations


class RunnerError(Exception):
    """Base: one sentence with the mend; `exit_code` is what the process returns."""

    exit_code = 1


class BundleRefused(RunnerError):
    """The folder is no artifact, is damaged, or is not meant for an engine of this runner."""

    exit_code = 2


class BadRequest(RunnerError):
    """A request with unknown options, or arrays of another shape or type than the model takes."""

    exit_code = 2


class EngineRefused(RunnerError):
    """The engine is here and does not take the file, or failed while running it."""

    exit_code = 6


class EngineMissing(RunnerError):
    """A Python package that the artifact needs is not installed; the text gives the pip line."""

    exit_code = 6


class MachineRefused(RunnerError):
    """The artifact is for another machine, or this Python is too old for it."""

    exit_code = 6


class VersionRefused(RunnerError):
    """A format this runner does not read, or an engine older than the one the artifact was proved with."""

    exit_code = 8
