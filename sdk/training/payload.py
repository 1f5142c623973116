"""What a Linux device trains from: the exported program, how each layer learns, and the bases of fixed subspaces.

`payload/program.pt2` (a free batch; also what inference runs), `payload/training.json` and, where a layer needs them, `payload/calibration.npz`.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.backends.payload import Payload, Port
from sdk.bundle import canonical_json
from sdk.errors import UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.settings import CALIBRATION, PROGRAM, SETTINGS, settings

#: Methods that cannot run without what a calibration saw.
CALIBRATED = ("fixed", "adapter", "asi")


def exported_program(program: Any) -> bytes:
    """The `.pt2` that a `TrainableProgram` was read from, its batch free; reading it gives the same program again."""
    import torch

    from sdk.training.nn.export import exported

    example = torch.zeros((2, *program.input_shape), dtype=program.input_dtype)
    return program_bytes(exported(program.origin, example)[0])


def training_payload(program: bytes, choices: Sequence[Choice], training: Training, calibration: Any, inputs: Sequence[Port], outputs: Sequence[Port],
                     threads: int = 1) -> Payload:  # fmt: skip
    """The files of a model that learns. `program`: a `.pt2` with a free batch; `calibration`: of `sdk.training.nn.calibrate`, or None."""
    import torch

    files = {PROGRAM: program, SETTINGS: canonical_json(settings(choices, training, threads))}
    if calibration is not None and any(choice.method in CALIBRATED for choice in choices):
        with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
            path = Path(folder) / CALIBRATION
            calibration.save(path)
            files[CALIBRATION] = path.read_bytes()
    version = str(torch.__version__).split("+")[0]
    return Payload(files, PROGRAM, tuple(inputs), tuple(outputs), {"torch": version, "numpy": "1.26"})


def program_bytes(program: Any) -> bytes:
    """An ExportedProgram as the bytes of a `.pt2` file."""
    import torch

    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def same_calibration(content: bytes, program: bytes) -> bytes:
    """The calibration in `content` for the program with other weights in `program`: its bases stay, they belong to it from now on."""
    from dataclasses import replace

    from sdk.training.nn.calibrate import Calibration
    from sdk.training.nn.program import read_program

    with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
        path, model = Path(folder) / CALIBRATION, Path(folder) / PROGRAM
        path.write_bytes(content)
        model.write_bytes(program)
        replace(Calibration.load(path), model_id=read_program(model).model_id).save(path)
        return path.read_bytes()


def with_weights(content: bytes, weights: Mapping[str, Any]) -> bytes:
    """The `.pt2` in `content` with `weights` (numpy arrays by the source's names) in place of its own. Raises UsageError for one that does not fit."""
    import torch

    program = torch.export.load(io.BytesIO(content))
    state = {**program.state_dict, **{name: value for name, value in program.constants.items() if isinstance(value, torch.Tensor)}}
    with torch.no_grad():
        for name, value in weights.items():
            if name not in state or tuple(state[name].shape) != tuple(value.shape):
                raise UsageError(f"the program has no value {name!r} of shape {list(value.shape)}; pull the weights from the session of this very artifact")
            state[name].copy_(torch.from_numpy(value))
    return program_bytes(program)
