"""The models by which engines' memory and time are measured: from 10 KB to 46 MB of weights, from none to 100 MB of values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import ROOT

SHARED = Path(os.environ.get("EMBARQ_SHARED") or ROOT.parent.parent / "shared" / "data")
#: Real files, where they are present: name -> path below SHARED.
FILES: Mapping[str, str] = {
    "resnet8_int8": "mlperf_tiny/models/ic01_resnet8_int8.tflite",
    "dscnn_int8": "mlperf_tiny/models/kws01_dscnn_int8.tflite",
    "mobilenetv1_int8": "mlperf_tiny/models/vww01_mbv1_025_int8.tflite",
    "autoencoder_fp32": "mlperf_tiny/models/ad01_autoencoder_fp32.tflite",
    "mobilenetv2_035_128": "models_extra/mobilenet_v2_0.35_128_tfs_channel_first.onnx",
    "yamnet": "models_extra/yamnet_256_64x96_tl.onnx",
}
#: Real files that are never fitted to: the tests predict them and measure.
HELD_OUT: Mapping[str, str] = {
    "ssd_mobilenetv1": "models_extra/st_ssd_mobilenet_v1_025_256.onnx",
    "resnet_large_fp32": "mlperf_tiny/models/ic_resnet_large_fp32.tflite",
    "resnet_large_int8": "mlperf_tiny/models/ic_resnet_large_int8.tflite",
    "mobilenetv1_fp32": "mlperf_tiny/models/vww01_mbv1_025_fp32.tflite",
    "mobilenetv2_224_int8": "models_extra/mobilenet_v2_224_pytorch_quant.tflite",
    "autoencoder_int8": "mlperf_tiny/models/ad01_autoencoder_int8.tflite",
}
TRANSFORMERS = ("vit_tiny", "text_transformer", "vit_small", "text_small", "dense_stack", "probe_dense")


@dataclass(frozen=True)
class Subject:
    """A model to measure: how to load it, its calibration inputs [n, ...] (None: it came quantised), and the precisions it is run at."""

    name: str
    load: Callable[[], Any]
    calibration: np.ndarray | None
    precisions: tuple[str, ...]


def names() -> tuple[str, ...]:
    """All subjects that can be made on this machine; small ones first."""
    nets = ("probe_conv", "probe_dense", "mobilenetv2_small", "resnet_small", "vit_small", "text_small", "mcunet_like", "mobilenetv2_035", "filters")
    large = ("text_transformer", "vit_tiny", "mobilenetv2", "mobilenetv2_half", "resnet18", "resnet_half", "dense_stack", "filters_wide")
    return (*nets, *(n for n, path in FILES.items() if (SHARED / path).exists()), *large)


def subject(name: str) -> Subject:
    """The subject of that name."""
    import sdk

    file = {**FILES, **HELD_OUT}.get(name)
    if file is not None:
        model = sdk.load(SHARED / file, name=name)
        if model.is_quantised:
            return Subject(name, lambda: model, None, ("int8",))
        shape = model.graph[model.graph.inputs[0]].shape
        return Subject(name, lambda: model, _noise((8, *shape[1:])), ("float32", "int8"))
    module, samples = _net(name)
    precisions = ("float32", "int8", *(("dynamic-int8",) if name in TRANSFORMERS else ()))
    return Subject(name, lambda: _exported(name, module, samples[:1]), samples, precisions)


def _exported(name: str, module: Any, example: np.ndarray) -> Any:
    import torch

    import sdk

    return sdk.load(module, example=torch.from_numpy(example), name=name)


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _net(name: str) -> tuple[Any, np.ndarray]:
    """(module in evaluation mode, inputs [8, ...])."""
    from benchmarks import linux_nets, small_nets
    from sdk.linux import probe

    small = {"mobilenetv2_small": "mobilenetv2", "resnet_small": "resnet18", "vit_small": "vit_tiny", "text_small": "text_transformer"}
    if name == "mobilenetv2_035":
        return small_nets.pretrained(name), np.random.default_rng(0).random((8, *small_nets.INPUT_SHAPE[1:]), np.float32)
    if name.startswith("probe_"):
        return probe.module(name.removeprefix("probe_")), np.concatenate([probe.inputs(name.removeprefix("probe_"))] * 8)
    own = {
        "filters": linux_nets.Net(_filters, (1, 3, 192, 192)),
        "dense_stack": linux_nets.Net(_dense_stack, (1, 1024)),
        "filters_wide": linux_nets.Net(lambda: _filters(48), (1, 3, 128, 128)),
        "mobilenetv2_half": linux_nets.Net(linux_nets.mobilenet_v2, (1, 3, 128, 128)),
        "resnet_half": linux_nets.Net(lambda: linux_nets.resnet((48, 96, 192, 384)), (1, 3, 160, 160)),
    }
    net = own.get(name) or (linux_nets.SMALL[small[name]] if name in small else linux_nets.NETS[name])
    return net.module(), np.concatenate(net.samples(8))


def _filters(width: int = 32) -> Any:
    """Few weights and large values: [N, 3, H, W] -> the same."""
    from torch import nn

    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1)]
    return nn.Sequential(*layers)


def _dense_stack() -> Any:
    """Many weights and small values: [N, 1024] -> [N, 10]."""
    from torch import nn

    return nn.Sequential(nn.Linear(1024, 3072), nn.ReLU(), nn.Linear(3072, 2048), nn.ReLU(), nn.Linear(2048, 10))
