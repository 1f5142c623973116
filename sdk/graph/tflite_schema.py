"""Reads a .tflite file's tables out of its bytes, every offset and length checked before it is followed.

A .tflite is a FlatBuffer: tables whose fields are found through a vtable. The slot numbers below are the order of the
fields in LiteRT's published schema. A damaged file raises ModelError here, whatever its bytes say; vectors of numbers are
views into the file, so nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from sdk.errors import ModelError

_SIZES = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}

#: Numbers of `TensorType`; those without an entry in `sdk.graph.ir.ITEMSIZE` are refused or unpacked by the importer.
TYPES: Mapping[int, str] = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool", 7: "int16", 8: "complex64", 9: "int8",
    10: "float64", 11: "complex128", 12: "uint64", 13: "resource", 14: "variant", 15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16",
    19: "int2", 20: "uint4",
}  # fmt: skip

#: Numbers of `BuiltinOperator`, for the ops the importer turns into ours and those a user is likely to meet.
OPERATORS: Mapping[int, str] = dict(enumerate(
    """ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED
    HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU
    RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM
    EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE
    BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN
    TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD
    REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD
    RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE
    RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4
    NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER CUMSUM CALL_ONCE BROADCAST_TO RFFT2D
    CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
    READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
    DYNAMIC_UPDATE_SLICE RELU_0_TO_1""".split()
))  # fmt: skip
_PLACEHOLDER = 127  # codes above it stand in the newer, 32-bit field


class Bytes:
    """The file, with a budget of list elements so that vectors that overlap on purpose cannot keep a reader busy."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.budget = len(data) + 1024

    def number(self, position: int, kind: str) -> int | float:
        """One little-endian number of struct type `kind`."""
        if not 0 <= position <= len(self.data) - _SIZES[kind]:
            raise ModelError(f"the .tflite file is damaged: it points to byte {position} and has {len(self.data)}; download or export it again")
        return struct.unpack_from("<" + kind, self.data, position)[0]

    def integer(self, position: int, kind: str) -> int:
        """`number`, known to be whole."""
        return int(self.number(position, kind))

    def span(self, position: int, item_bytes: int) -> tuple[int, int]:
        """`(start, count)` of the vector at `position`, which lies inside the file."""
        count = self.integer(position, "I")
        if count * item_bytes > len(self.data) - position - 4:
            raise ModelError(f"the .tflite file is damaged or cut off: a list of {count} items at byte {position} does not fit its {len(self.data)} bytes")
        return position + 4, count

    def spend(self, elements: int) -> None:
        """Count list elements read; a sound file never has more than it has bytes."""
        self.budget -= elements
        if self.budget < 0:
            raise ModelError("the .tflite file is damaged: its lists overlap; download or export it again")


class Table:
    """One table of the file. Absent fields give the default, as the format says."""

    def __init__(self, source: Bytes, position: int) -> None:
        self.source, self.position = source, position
        self.vtable = position - source.integer(position, "i")
        self.slots = (source.integer(self.vtable, "H") - 4) // 2
        source.spend(1)

    def _field(self, slot: int) -> int | None:
        if slot >= self.slots:
            return None
        offset = self.source.integer(self.vtable + 4 + 2 * slot, "H")
        return self.position + offset if offset else None

    def integer(self, slot: int, kind: str = "i", default: int = 0) -> int:
        """An integer field of struct type `kind`."""
        where = self._field(slot)
        return default if where is None else self.source.integer(where, kind)

    def real(self, slot: int, default: float = 0.0) -> float:
        """A float32 field."""
        where = self._field(slot)
        return default if where is None else float(self.source.number(where, "f"))

    def flag(self, slot: int, default: bool = False) -> bool:
        """A bool field."""
        return bool(self.integer(slot, "B", int(default)))

    def _target(self, slot: int) -> int | None:
        where = self._field(slot)
        return None if where is None else where + self.source.integer(where, "I")

    def table(self, slot: int) -> Table | None:
        """A table field, or None."""
        target = self._target(slot)
        return None if target is None else Table(self.source, target)

    def tables(self, slot: int) -> list[Table]:
        """A vector of tables; empty when absent."""
        target = self._target(slot)
        if target is None:
            return []
        start, count = self.source.span(target, 4)
        self.source.spend(count)
        return [Table(self.source, where + self.source.integer(where, "I")) for where in range(start, start + 4 * count, 4)]

    def array(self, slot: int, dtype: str) -> np.ndarray | None:
        """A vector of numbers as a read-only view of the file, or None when absent."""
        target = self._target(slot)
        if target is None:
            return None
        kind = np.dtype(dtype).newbyteorder("<")
        start, count = self.source.span(target, kind.itemsize)
        return np.frombuffer(self.source.data, kind, count, start)

    def integers(self, slot: int, dtype: str = "int32") -> tuple[int, ...]:
        """A short vector of integers; empty when absent."""
        array = self.array(slot, dtype)
        if array is None:
            return ()
        self.source.spend(len(array))
        return tuple(array.tolist())

    def text(self, slot: int) -> str:
        """A string field, at most 300 printable characters of it; empty when absent."""
        array = self.array(slot, "uint8")
        if array is None:
            return ""
        self.source.spend(len(array))
        text = array[:300].tobytes().decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)


def open_model(data: bytes) -> Table:
    """The model's root table. Raises ModelError when `data` is not a .tflite file of schema version 3."""
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ModelError(f"this is not a .tflite file: {len(data)} bytes that do not carry the mark TFL3; give a LiteRT / TensorFlow Lite model")
    source = Bytes(data)
    model = Table(source, source.integer(0, "I"))
    if model.integer(0, "I") != 3:
        raise ModelError(f"the .tflite file has schema version {model.integer(0, 'I')} and 3 is read; export it again")
    return model


def operator_name(code: Table) -> str:
    """Name of an `OperatorCode`: its builtin name, `CUSTOM:<name>`, or `BUILTIN_<number>`."""
    old, new = code.integer(0, "b"), code.integer(3, "i")
    number = new if old == _PLACEHOLDER or new > old else old
    name = OPERATORS.get(number, f"BUILTIN_{number}")
    return f"CUSTOM:{code.text(1)}" if name == "CUSTOM" else name
