"""What a calibration run found, as a file: spectra and bases of every layer's input, and how well each method would do."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.errors import UsageError
from sdk.planner.training.records import LayerRecord
from sdk.training.nn.factors import own
from sdk.training.nn.ranks import WHOLE_FROM, Sharing, captured, ranks_global, ranks_per_mode, ranks_shared

#: Samples for which the ranks of fixed bases balance cores, one a sample, against bases, one for all.
RANK_SAMPLES = 16
#: Data unlike the calibration's, such as another camera's pictures, have gradients that lie elsewhere, but along what has energy. So an eps of
#: _ENERGY_FROM and more holds a mode's energy like its gradient, up to a loss of _ENERGY_LOST; up to _GRADIENT_UP_TO, which is for few bytes,
#: the gradient decides alone; between them, in proportion.
_GRADIENT_UP_TO, _ENERGY_FROM, _ENERGY_LOST = 0.8, 0.9, 0.2


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration run found. records: of every layer, with spectra, norms and cosines. bases: [d, d] directions for each mode of its
    input but the batch, strongest first. samples: seen. model_id: of the program, with the weights that it had."""

    records: tuple[LayerRecord, ...]
    bases: Mapping[str, tuple[Tensor, ...]] = field(repr=False)
    samples: int
    model_id: str

    def record(self, layer: str) -> LayerRecord:
        """The record of one layer. Raises UsageError for one that was not calibrated."""
        for record in self.records:
            if record.name == layer and record.spectra:
                return record
        raise UsageError(f"layer {layer} was not calibrated; run calibrate with it among the layers, or let it learn by exact or bias")

    def basis(self, layer: str, ranks: Sequence[int]) -> tuple[Tensor | None, ...]:
        """The first ranks[n + 1] directions of each mode n, [d, K]; None for rank 0, a mode left whole. ranks: batch first."""
        known = self.bases[self.record(layer).name]
        return tuple(own(basis[:, :rank].contiguous()) if rank else None for basis, rank in zip(known, ranks[1:], strict=True))

    def save(self, path: str | Path) -> None:
        """Write it as .npz, without pickles."""
        arrays: dict[str, np.ndarray] = {}
        rows = []
        for i, record in enumerate(self.records):
            rows.append(_row(record))
            for n, energies in enumerate(record.spectra):
                arrays[f"{i}/{n}/spectrum"] = energies
                arrays[f"{i}/{n}/gradient"], arrays[f"{i}/{n}/energy"] = record.gradient_spectra[n], record.energy_spectra[n]
                arrays[f"{i}/{n}/basis"] = self.bases[record.name][n].numpy()
        header = json.dumps({"records": rows, "samples": self.samples, "model_id": self.model_id})
        with open(path, "wb") as file:
            np.savez(file, header=np.frombuffer(header.encode(), np.uint8), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """The calibration that `save` wrote. Raises UsageError for a file that is something else."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                header = json.loads(bytes(stored["header"]))
                bases, records = {}, []
                for i, row in enumerate(header["records"]):
                    modes = range(row.pop("modes"))
                    spectra = tuple(stored[f"{i}/{n}/spectrum"] for n in modes)
                    gradient, energy = (tuple(stored[f"{i}/{n}/{kind}"] for n in modes) for kind in ("gradient", "energy"))
                    records.append(replace(_record(row, spectra), gradient_spectra=gradient, energy_spectra=energy))
                    bases[records[-1].name] = tuple(torch.from_numpy(stored[f"{i}/{n}/basis"]) for n in modes)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} is not a calibration, or is damaged; make it again with calibrate(...).save") from error
        return cls(tuple(records), bases, header["samples"], header["model_id"])


def ranks_for(record: LayerRecord, method: str, eps: float, samples: int = RANK_SAMPLES) -> tuple[int, ...]:
    """Ranks of a layer's modes, batch first, for a method at a share of energy; () where each batch decides (hosvd, svd).

    fixed and asi share one error budget among the modes; an adapter cuts the channels alone. 0: the mode stays whole.
    """
    match method:
        case "fixed" | "asi":  # either holds its bases once, for all samples or for those of a batch
            known = _worth(record, eps) if method == "fixed" else record.spectra
            return (0, *ranks_global(known, record.input_shape, eps, samples))
        case "adapter":
            mode = 0 if record.op == "conv2d" else len(record.input_shape) - 1
            rank = ranks_per_mode([_worth(record, eps)[mode]], eps)[0]
            return (0, *(rank if n == mode and rank < WHOLE_FROM * length else 0 for n, length in enumerate(record.input_shape)))
    return ()


def shared_ranks(records: Sequence[LayerRecord], eps: float, samples: int = RANK_SAMPLES) -> dict[str, tuple[float, tuple[int, ...]]]:
    """By layer, (share of its own gradient, ranks of its fixed bases, batch first) with which these layers together keep `eps` of their
    gradient in the fewest bytes."""
    layers = [Sharing(_worth(r, eps), r.input_shape, r.gradient_norm**2) for r in records]
    found = ranks_shared(layers, eps, samples)
    return {r.name: (captured(layer.spectra, ranks), (0, *ranks)) for r, layer, ranks in zip(records, layers, found, strict=True)}


def _worth(record: LayerRecord, eps: float) -> tuple[np.ndarray, ...]:
    """Spectra that ranks for `eps` go by: what each direction is worth to the gradient, and more where its energy would be missed."""
    upto = _ENERGY_LOST * min(1.0, max(0.0, (eps - _GRADIENT_UP_TO) / (_ENERGY_FROM - _GRADIENT_UP_TO)))
    if not record.gradient_spectra or upto == 0:
        return record.gradient_spectra or record.spectra
    return tuple(_held(gradient, energy, upto) for gradient, energy in zip(record.gradient_spectra, record.energy_spectra, strict=True))


def _held(gradient: np.ndarray, energy: np.ndarray, upto: float) -> np.ndarray:
    """[d]: the spectrum whose loss at every rank is that of `gradient`, or that of `energy` where it is more, counted up to `upto`."""
    lost, missed = (np.append(spectrum[::-1].cumsum()[::-1], 0.0) for spectrum in (gradient, energy))
    return -np.diff(np.maximum(lost, np.minimum(missed, upto)))


def _row(record: LayerRecord) -> dict[str, Any]:
    names = ("name", "op", "input_shape", "output_shape", "weight_shape", "stride", "dilation", "padding", "groups", "has_bias", "activation")
    row = {name: getattr(record, name) for name in names}
    cosines = [[method, eps, cosine] for (method, eps), cosine in record.cosines.items()]
    ranks = [[method, eps, seen] for (method, eps), seen in record.batch_ranks.items()]
    return {**row, "norms": [record.gradient_norm, record.bias_gradient_norm], "cosines": cosines, "ranks": ranks, "modes": len(record.spectra)}


def _record(row: dict[str, Any], spectra: tuple[np.ndarray, ...]) -> LayerRecord:
    norm, bias_norm = row.pop("norms")
    cosines = {(method, eps): cosine for method, eps, cosine in row.pop("cosines")}
    ranks = {(method, eps): tuple(map(tuple, seen)) for method, eps, seen in row.pop("ranks", [])}
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return LayerRecord(**known, spectra=spectra, gradient_norm=norm, bias_gradient_norm=bias_norm, cosines=cosines, batch_ranks=ranks)
