"""What a layer needs beside its tensors while it computes: copies in the order that oneDNN likes, and pieces of what was compressed.

oneDNN convolves in blocks of 16 channels (AVX-512; 8 elsewhere, which takes less). It copies the input into that order, computes a
result in that order, and copies it back: beside input and result, the larger of the two stands there once more. 1 x 1 weight gradients
are plain matrix products and need none of it; images of three channels or fewer are read as they are. On other architectures the
libraries differ, and this is a guide.
"""

from __future__ import annotations

from sdk.planner.training import kept
from sdk.planner.training.records import Choice, LayerRecord
from sdk.planner.training.work import layer_class

BLOCK = 16
#: Values that a weight gradient's pieces are made of at once, as `sdk.training.nn.conv_grad` has it.
CHUNK_BYTES = 4 << 20
COMPRESSED = ("fixed", "asi", "hosvd", "svd", "adapter")


def forward_workspace(record: LayerRecord, choice: Choice, batch: int) -> int:
    """Beside input and output: the convolution's copies, or what compressing needs, which comes first and is gone then."""
    return max(convolution_bytes(record, batch), compression_bytes(record, choice, batch))


def convolution_bytes(record: LayerRecord, batch: int) -> int:
    """The copies of a forward pass."""
    if record.op != "conv2d":
        return 0
    x = 0 if record.input_shape[0] <= 3 else blocked(record.input_shape, batch)
    y, plain = blocked(record.output_shape, batch), 4 * batch * record.output_size
    return max(x + y, y + plain) - plain


def input_gradient_bytes(record: LayerRecord, batch: int) -> int:
    """The copies of an input gradient, beside it and the output's gradient."""
    if record.op != "conv2d":
        return 0
    dx, plain = blocked(record.input_shape, batch), 4 * batch * record.input_size
    if max(record.stride) > 1 and layer_class(record) != "depthwise":
        return 2 * plain
    return max(blocked(record.output_shape, batch) + dx, dx + plain) - plain


def weight_gradient_bytes(record: LayerRecord, choice: Choice, batch: int) -> int:
    """The weight gradient with the copies it takes, and pieces of the input made again where the kernel is larger than one."""
    if choice.method in ("freeze", "bias"):
        return 0
    gradient = 4 * kept.learning_weights(record, choice)
    plain = record.op != "conv2d" or (record.weight_shape[2:] == (1, 1) and max(record.stride) == 1)
    if plain:
        return gradient
    x = 0 if record.input_shape[0] <= 3 else blocked(record.input_shape, batch)
    copies = x + blocked(record.output_shape, batch)
    if choice.method in COMPRESSED:
        made = 4 * batch * record.input_size
        share = min(1.0, CHUNK_BYTES / made)
        return gradient + round(share * (copies + made))
    return gradient + copies


def backward_workspace(record: LayerRecord, choice: Choice, batch: int, first: bool = False) -> int:
    """The most of a layer's backward pass beside saved values and the two gradients: weight and input gradient come one after the other."""
    weight = weight_gradient_bytes(record, choice, batch)
    gradient = 4 * kept.learning_weights(record, choice)
    dx = 4 * batch * record.input_size
    if first:
        return weight
    return max(weight - dx, gradient + input_gradient_bytes(record, batch))


def compression_bytes(record: LayerRecord, choice: Choice, batch: int) -> int:
    """The input after its first projection, while the next one is made."""
    if choice.method not in COMPRESSED or not choice.ranks:
        return 0
    shape = kept.shape_of(record, batch)
    shares = sorted(rank / d for rank, d in zip(choice.ranks, shape, strict=True) if rank)
    return round(4 * batch * record.input_size * shares[0]) if len(shares) > 1 else 0


def blocked(shape: tuple[int, ...], batch: int) -> int:
    """Bytes of [batch, C, H, W] with its channels in whole blocks."""
    channels, *positions = shape
    size = -(-channels // BLOCK) * BLOCK * batch * 4
    for extent in positions:
        size *= extent
    return size
