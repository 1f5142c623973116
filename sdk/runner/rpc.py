"""JSON-RPC 2.0 over two byte streams, framed with `Content-Length` headers as in the Language Server Protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, BinaryIO

from .errors import RunnerError

#: One message may hold a batch of images in base64; more is a mistake or an attack.
LIMIT = 1 << 30
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INTERNAL = -32700, -32600, -32601, -32603
#: Codes of our own errors are this base minus the exit code.
OURS = -32000


class FramingError(RunnerError):
    """The stream carries something that is not a framed message; nothing after it can be trusted."""

    exit_code = 6


def frame(message: Any) -> bytes:
    """The bytes of one message: a header with the body's length, an empty line, the body."""
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def read_body(read_line: Callable[[], bytes], read_exactly: Callable[[int], bytes]) -> bytes | None:
    """The body of the next message, None at the end of the stream. Raises `FramingError`."""
    length = None
    line = read_line()
    if not line:
        return None
    while line not in (b"\r\n", b"\n"):
        name, colon, value = line.partition(b":")
        if not colon or not line.endswith(b"\n"):
            raise FramingError(f"a header line was expected and {line[:60]!r} came; speak JSON-RPC with Content-Length headers")
        if name.strip().lower() == b"content-length":
            length = int(value) if value.strip().isdigit() else -1
        line = read_line()
    if length is None or not 0 <= length <= LIMIT:
        raise FramingError(f"a message of {length} bytes was announced and up to {LIMIT} are taken; send a right Content-Length")
    body = read_exactly(length)
    if len(body) != length:
        raise FramingError(f"the stream ended after {len(body)} of {length} bytes of a message; was the other side killed?")
    return body


def answer(body: bytes, methods: dict[str, Callable[[dict[str, Any]], Any]]) -> dict[str, Any] | None:
    """The response to one request; None for a notification, which gets no answer even when it is wrong."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        return _error(None, PARSE_ERROR, f"the message is not JSON ({error}); send one JSON object")
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
        return _error(None, INVALID_REQUEST, 'the message is no JSON-RPC 2.0 request; it needs "jsonrpc": "2.0" and a "method"')
    number, name, params = request.get("id"), request["method"], request.get("params", {})
    response = _call(number, name, params, methods)
    return response if "id" in request else None


def _call(number: Any, name: str, params: Any, methods: dict[str, Callable[[dict[str, Any]], Any]]) -> dict[str, Any]:
    if name not in methods:
        return _error(number, METHOD_NOT_FOUND, f"there is no method {name!r}; there are {', '.join(sorted(methods))}")
    if not isinstance(params, dict):
        return _error(number, INVALID_REQUEST, f"the params of {name} are given by name; send an object")
    try:
        return {"jsonrpc": "2.0", "id": number, "result": methods[name](params)}
    except RunnerError as error:
        return _error(number, OURS - error.exit_code, str(error))
    except Exception as error:  # a defect must reach the host as an answer, not as silence
        return _error(number, INTERNAL, f"{name} failed inside the runner: {type(error).__name__}: {error}")


def _error(number: Any, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}}


def serve(source: BinaryIO, sink: BinaryIO, methods: dict[str, Callable[[dict[str, Any]], Any]], ended: Callable[[], bool]) -> None:
    """Answer requests until the stream ends or `ended()`; a framing error is answered once and raised."""
    while not ended():
        try:
            body = read_body(source.readline, source.read)
        except FramingError as error:
            _send(sink, _error(None, PARSE_ERROR, str(error)))
            raise
        if body is None:
            return
        response = answer(body, methods)
        if response is not None:
            _send(sink, response)


def _send(sink: BinaryIO, message: Any) -> None:
    try:
        data = frame(message)
    except ValueError:  # NaN or infinity where the protocol has none
        data = frame(_error(message.get("id"), INTERNAL, "the result holds a number that JSON cannot carry (NaN or infinity)"))
    sink.write(data)
    sink.flush()
