"""Every error a user can see.

    EmbarqError                 1  an internal fault: a defect of ours
    ├── UsageError              2  the request itself is wrong: an argument, a file, a shape
    │   ├── ModelError          2  a model file or module that cannot be read
    │   ├── DataError           2  calibration or evaluation data of the wrong kind or shape
    │   └── DeviceFileError     2  a device file with a wrong, missing or misspelt key
    ├── DoesNotFit              3  the plan needs more than the device has
    ├── UnsupportedOp           4  an operation, data type or option that the target cannot compute
    ├── VerificationFailed      5  the device computed something else than the golden vectors say
    ├── TrainingDiverged        5  a training step gave a loss or a gradient that is not finite; the weights of before are kept
    ├── DeviceError             6  the board or the link to it does not answer as it should
    │   ├── LinkError           6  no port, a lost connection, a damaged frame
    │   ├── BoardFault          6  the program on the board crashed
    │   └── ToolError           6  a compiler or a flash tool is missing or failed
    ├── SignatureError          7  a bad signature, or an attempt to go back to an older version
    └── VersionMismatch         8  an artifact or a firmware of a version this embarq does not read

An error's text is one sentence: what was asked, what was found, the mend. The number is the exit code of the command line.
"""

from __future__ import annotations


class EmbarqError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(EmbarqError):
    """The request is wrong: an unknown name, a bad argument, a file that does not exist."""

    exit_code = 2


class ModelError(UsageError):
    """A model that cannot be read: truncated, damaged, without a fixed batch, with NaN weights."""


class DataError(UsageError):
    """Calibration or evaluation data that does not match the model's inputs."""


class DeviceFileError(UsageError):
    """A device file with an unknown, missing or ill-typed key."""


class DoesNotFit(EmbarqError):
    """The plan needs more memory than the device has; the text says how many bytes and how to mend it."""

    exit_code = 3


class UnsupportedOp(EmbarqError):
    """An operation that the chosen device cannot compute; the text names it and the mend."""

    exit_code = 4


class VerificationFailed(EmbarqError):
    """The device's output differs from the golden vectors; the text names the first layer that differs."""

    exit_code = 5


class TrainingDiverged(EmbarqError):
    """A training step gave a loss or a gradient that is not finite; the weights are those of before the step."""

    exit_code = 5


class DeviceError(EmbarqError):
    """The board, or the way to it, does not work."""

    exit_code = 6


class LinkError(DeviceError):
    """The link: no such port, nothing answers, a damaged frame after every retry."""


class BoardFault(DeviceError):
    """The program on the board crashed; the text says at which address, function and layer."""


class ToolError(DeviceError):
    """A tool that is needed (compiler, flasher) is absent or failed; the text says how to get it."""


class SignatureError(EmbarqError):
    """A bad signature or a rollback."""

    exit_code = 7


class VersionMismatch(EmbarqError):
    """A format or protocol version that this release does not read."""

    exit_code = 8
