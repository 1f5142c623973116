"""The host's half of the runner's protocol, over any two-way pipe: a local process or a channel of an SSH connection."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from sdk.errors import DeviceError, EmbarqError, LinkError, UsageError, VerificationFailed, VersionMismatch
from sdk.runner import rpc
from sdk.runner.errors import RunnerError

#: Exit codes of the runner and what they are on the host.
ERRORS: Mapping[int, type[EmbarqError]] = MappingProxyType({2: UsageError, 5: VerificationFailed, 6: DeviceError, 8: VersionMismatch})
PREFIX = "embarq-run: "
CALL_TIMEOUT_S = 600.0
LAST_WORDS_BYTES = 8192


@dataclass(frozen=True)
class Fate:
    """How the runner ended: its exit code, or the signal that killed it (0: some signal), or neither when only the link is gone."""

    code: int | None = None
    signal: int | None = None
    said: str = ""

    @classmethod
    def of_code(cls, code: int, said: str) -> Fate:
        """From an exit code as a shell or `subprocess` gives it: 137 and -9 are both signal 9."""
        signal = -code if code < 0 else code - 128 if 128 < code < 160 else None
        return cls(None if signal else code, signal, said)


class Pipe(Protocol):
    """Bytes to and from a running runner. `name` is how the user called the device."""

    name: str

    def write(self, data: bytes) -> None:
        """Send all of `data`; raises `LinkError` when the other side is gone."""

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """At least one byte, b"" at the end of the stream; raises `LinkError` when none came in time."""

    def fate(self) -> Fate:
        """How the other side ended; waits a moment for it to do so."""

    def close(self) -> None:
        """Let the other side go; further calls do nothing."""


class LocalPipe:
    """A runner that is a child of this process."""

    def __init__(self, command: Sequence[str], name: str = "this computer") -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        try:
            # unbuffered: a write that did not raise has left this process
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0)
        except OSError as error:
            self._errors.close()
            raise UsageError(f"cannot start {command[0]}: {error.strerror}; name a Python with local?python=PATH") from error
        self._pieces: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        """A thread, as pipes cannot be waited for with a time limit on every system."""
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while piece := os.read(self._process.stdout.fileno(), 1 << 16):
                self._pieces.put(piece)
        self._pieces.put(b"")

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        assert self._process.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except (OSError, ValueError) as error:
            raise LinkError(f"the runner on {self.name} is gone; open the session again") from error

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """What has arrived; may be more than `max_bytes`."""
        try:
            piece = self._pieces.get(timeout=timeout_s)
        except queue.Empty:
            raise LinkError(f"the runner on {self.name} did not answer in {timeout_s:.0f} s; give it more time or fewer repeats") from None
        if not piece:
            self._pieces.put(piece)  # the end stays the end
        return piece

    def fate(self) -> Fate:
        """How the child ended."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return Fate()
        self._errors.seek(max(self._errors.seek(0, os.SEEK_END) - LAST_WORDS_BYTES, 0))
        return Fate.of_code(code, self._errors.read().decode(errors="replace"))

    def close(self) -> None:
        """End the child: it ends by itself when its input does, and is killed when it does not."""
        if self._errors.closed:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


class RunnerClient:
    """Calls to a runner, one at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self._buffer = bytearray()
        self._number = 0
        self._timeout_s = CALL_TIMEOUT_S

    def call(self, method: str, params: Mapping[str, Any] | None = None, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The result of `method`.

        Raises the error that the runner answered with (`UsageError`, `VersionMismatch`, ...), `DeviceError` when it was killed,
        `LinkError` when nothing comes back within `timeout_s`.
        """
        self._number += 1
        self._timeout_s = timeout_s
        request = rpc.frame({"jsonrpc": "2.0", "id": self._number, "method": method, "params": dict(params or {})})
        try:
            self.pipe.write(request)
        except LinkError as error:
            raise self._ended(error) from error
        response = self._response()
        if "error" in response:
            raise _raised(response["error"], self.pipe.name)
        return response["result"]

    def _response(self) -> dict[str, Any]:
        try:
            body = rpc.read_body(self._read_line, self._read_exactly)
        except RunnerError as error:
            raise self._ended(LinkError(f"{self.pipe.name}: {error}")) from error
        if body is None:
            raise self._ended(LinkError(f"the connection to {self.pipe.name} was lost; open the session again"))
        try:
            response = json.loads(body)
        except ValueError as error:
            raise LinkError(f"the runner on {self.pipe.name} answered something that is not JSON; are both sides of one release?") from error
        if not isinstance(response, dict) or response.get("id") not in (self._number, None) or not ({"result", "error"} & set(response)):
            raise LinkError(f"the runner on {self.pipe.name} answered another question than the one asked; close the session and open it again")
        return response

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            piece = self.pipe.read(1 << 16, self._timeout_s)
            if not piece:
                return self._take(len(self._buffer))
            self._buffer += piece
        return self._take(end + 1)

    def _read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            piece = self.pipe.read(1 << 16, self._timeout_s)
            if not piece:
                break
            self._buffer += piece
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _ended(self, otherwise: LinkError) -> EmbarqError:
        """The error for a runner that is gone: what it said, or what killed it, or that only the link broke."""
        return fate_error(self.pipe.fate(), self.pipe.name, otherwise)

    def close(self) -> None:
        """Ask the runner to end and let the pipe go."""
        with contextlib.suppress(EmbarqError):
            self.call("shutdown", timeout_s=10)
        self.pipe.close()


def fate_error(fate: Fate, name: str, otherwise: EmbarqError) -> EmbarqError:
    """One sentence for how a runner on `name` ended."""
    if fate.signal is not None:
        which = f" by signal {fate.signal}" if fate.signal else ""
        return DeviceError(f"the runner on {name} was killed{which}; if memory is short there (dmesg | grep -i oom), choose a smaller model or fewer threads")
    if fate.code is None:
        return otherwise
    lines = [line.strip() for line in fate.said.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(PREFIX)]
    if ours:
        return ERRORS.get(fate.code, DeviceError)(f"{name}: {ours[-1][len(PREFIX) :]}")
    last = lines[-1] if lines else f"exit code {fate.code}"
    return DeviceError(f"the runner on {name} ended unasked ({last}); start it there by hand to see more")


def _raised(error: Mapping[str, Any], name: str) -> EmbarqError:
    code, text = int(error.get("code", rpc.INTERNAL)), str(error.get("message", "no reason given"))
    kind = ERRORS.get(rpc.OURS - code)
    return kind(f"{name}: {text}") if kind else EmbarqError(f"{name}: {text}")
