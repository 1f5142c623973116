"""What every backend that calls a foreign exporter needs: silence, one sentence for a failure, the extra for a missing package."""

from __future__ import annotations

import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from sdk.errors import EmbarqError, ModelError, UnsupportedOp, UsageError

#: How exporters name an operator in their errors: `OpOverload(op='aten.svd', overload=...)`, `aten.svd.default`, `aten::svd`.
_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'|torch\.ops\.((?!higher_order)\w+\.\w+)|\b((?:aten|prims|quantized_decomposed|torchvision)(?:\.|::)\w+)")

#: How they say that they do not know it.
_UNKNOWN = re.compile(
    r"No ONNX function|not in Core ATen|not supported|[Uu]nsupported|[Mm]issing out variant|No decomposition|[Nn]ot ?[Ii]mplemented|NOT_IMPLEMENTED"
)


def require(module: str, extra: str, purpose: str) -> Any:
    """The module `module`; UsageError naming the extra to install when it is absent.

    require("onnxruntime", "onnxruntime", "quantising to ONNX int8")
    """
    try:
        with quiet():  # some tell at length which of their own parts they do without
            return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UsageError(f'{purpose} needs {package}, which is not installed; pip install "embarq[{extra}]"') from error


@contextmanager
def quiet() -> Iterator[None]:
    """Foreign warnings, log lines and prints kept from the screen: the library prints nothing."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def one_sentence(what: str, mend: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes one sentence `<what> (<its reason>); <mend>`.

    UnsupportedOp where the exporter's error, or one it was raised from, says which operator it does not know; ModelError
    otherwise. Our own errors pass as they are.
    """
    try:
        with quiet():
            yield
    except EmbarqError:
        raise
    except Exception as error:  # foreign code raises dozens of kinds
        operator = unknown_operator(error)
        if operator:
            raise UnsupportedOp(f"{what}: it does not know the operator {operator}; {mend}") from error
        raise ModelError(f"{what} ({first_sentence(error)}); {mend}") from error


def first_sentence(error: BaseException) -> str:
    """The innermost reason of a chain of errors, its first line, without an end mark and at most 200 characters long."""
    inner = list(_chain(error))[-1]
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    text = (lines[0] if lines else type(inner).__name__).rstrip(".;: ")
    return text if len(text) <= 200 else f"{text[:197]}..."


def unknown_operator(error: BaseException) -> str | None:
    """The operator that the error says is not known, such as `aten.bessel_j0`; None when it speaks of something else."""
    for link in _chain(error):
        text = str(link)
        if _UNKNOWN.search(text):
            named = _OPERATOR.search(text)
            if named:
                return next(group for group in named.groups() if group).replace("::", ".")
            onnx = re.search(r"implementation for (\w+)\(|No Op registered for (\w+)", text)
            if onnx:
                return next(group for group in onnx.groups() if group)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
