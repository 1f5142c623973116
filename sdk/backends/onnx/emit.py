"""The ONNX Runtime backend: what it can take, and the file it hands over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdk.backends.foreign import one_sentence, require
from sdk.backends.onnx.export import ports, to_bytes, to_onnx
from sdk.backends.onnx.quantise import dynamic_int8, options, static_int8
from sdk.backends.payload import Payload
from sdk.backends.samples import calibration
from sdk.backends.source import Source
from sdk.errors import UsageError
from sdk.planner.recipes import Recipe

ENTRY = "model.onnx"
#: Graph ops that a matrix multiplication of the source becomes.
_MATRIX_OPS = ("dense", "matmul", "batch_matmul")
_SATURATION = ("where ONNX Runtime is opened without the session entry session.x64quantprecision=1 (ours has it), int8 products saturate on x86 "
               "processors without VNNI (before about 2019); for such a program give the option reduce_range=True.")  # fmt: skip
#: Exact int8 products on x86 without VNNI too, whose default adds pairs of products in 16 bits and saturates; no change elsewhere.
EXACT_PRODUCTS = ("session.x64quantprecision", "1")


def refusal(model: Source, recipe: Recipe) -> str | None:
    """Why ONNX Runtime cannot have `model` as `recipe` says, one sentence with the mend; None when it can. Exports nothing."""
    if model.kind not in ("torch", "onnx"):
        return f"{model.name} is a {model.kind} model, which ONNX Runtime does not take; choose backend litert"
    if recipe.precision == "float16":
        return "ONNX Runtime has no float16 kernels that gain anything on a processor; choose precision float32 or int8, or backend tensorrt"
    if model.is_quantised and recipe.precision != "int8":
        return f"{model.name} is quantised already and was asked for in {recipe.precision}; choose precision int8 or load the float model"
    if recipe.precision == "dynamic-int8" and not has_matrix_product(model):
        return f"{model.name} has no matrix multiplication, which is all that dynamic-int8 quantises; choose precision int8 or float32"
    return _option_fault(recipe)


def emit(model: Source, recipe: Recipe, samples: Any = (), progress: Callable[[str], None] | None = None) -> Payload:
    """`model.onnx` at the recipe's precision.

    samples: calibration inputs for precision int8, in the source's shapes; see `sdk.backends.samples.arrays`.
    Raises UsageError where `refusal` has a reason, DataError for unfit samples, UnsupportedOp and ModelError from the exporter.
    """
    reason = refusal(model, recipe)
    if reason:
        raise UsageError(reason)
    runtime = require("onnxruntime", "onnxruntime", "compiling for ONNX Runtime")
    tell = progress or (lambda _: None)
    tell("exporting to ONNX")
    content = _content(model, recipe, samples, tell)
    with one_sentence(f"ONNX Runtime {runtime.__version__} cannot run {model.name}", "choose backend executorch, or write that part of the model with other operators"):  # noqa: E501
        session(content)
    inputs, outputs = ports(_parsed(content))
    notes = (_SATURATION,) if recipe.precision != "float32" and not options(recipe.options)["reduce_range"] else ()
    return Payload({ENTRY: content}, ENTRY, inputs, outputs, {"onnxruntime": runtime.__version__}, notes=notes)


def session(content: bytes, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` of the model on this computer's processor."""
    import onnxruntime as ort

    def opened(*entries: tuple[str, str]) -> Any:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 4  # its errors come as exceptions; the lines beside them are noise
        for entry in entries:
            settings.add_session_config_entry(*entry)
        return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])

    try:
        return opened(EXACT_PRODUCTS)
    except Exception:  # int8 activations have no kernels beside the uint8 weights that exact products take (ONNX Runtime 1.32)
        return opened()


def has_matrix_product(model: Source) -> bool:
    """True when some layer is a matrix multiplication, or may be one: an opaque op."""
    return any(node.op in _MATRIX_OPS or node.op == "opaque" for node in model.graph.nodes)


def _content(model: Source, recipe: Recipe, samples: Any, tell: Callable[[str], None]) -> bytes:
    proto = to_onnx(model)
    if recipe.precision == "float32" or model.is_quantised:
        return to_bytes(proto, model.name)
    if recipe.precision == "dynamic-int8":
        tell("quantising weights")
        return to_bytes(dynamic_int8(proto, recipe.options, model.name), model.name)
    inputs = ports(proto)[0]
    feeds = [{port.name: array for port, array in zip(inputs, arrays, strict=True)} for arrays in calibration(samples, inputs, model.name)]
    tell(f"calibrating on {len(feeds)} samples")
    return to_bytes(static_int8(proto, feeds, recipe.options, model.name), model.name)


def _parsed(content: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(content)


def _option_fault(recipe: Recipe) -> str | None:
    try:
        options(recipe.options)
    except UsageError as error:
        return str(error)
    return None
