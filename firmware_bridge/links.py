"""Byte links to a board: a serial port, a TCP socket, the emulated board. They know nothing of what they carry."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, Protocol

from sdk.errors import LinkError, ToolError, UsageError

BAUD = 115200
FORMS = "/dev/ttyACM0, COM3, serial:///dev/ttyACM0?baud=115200, socket://host:port or emulator:<device>:<firmware.elf>"


class Link(Protocol):
    """A way to a board. It may have a `name`, how the user called it, and a `mend`, what to look at when nothing comes back."""

    def write(self, data: bytes) -> None:
        """Send all of `data`; raises `LinkError` when the link is gone."""

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """At least one byte as soon as there is one; b"" when none came in time, or none can come (an idle emulator)."""

    def close(self) -> None:
        """Give the port back; further calls are allowed and do nothing."""


def name_of(link: Link) -> str:
    """How error sentences call `link`."""
    return str(getattr(link, "name", "the board"))


def mend_of(link: Link) -> str:
    """What to look at when nothing comes back."""
    return str(getattr(link, "mend", "is the firmware flashed and running?"))


class SerialLink:
    """A serial port, opened for us alone. Needs pyserial."""

    def __init__(self, port: str, baud: int = BAUD) -> None:
        serial = _pyserial()
        self.name = port
        self.mend = f"is the firmware flashed and the baud rate {baud}?"
        try:
            # exclusive: a terminal left open on the port would swallow half of the answers
            self._port = serial.Serial(port, baud, timeout=0, write_timeout=10, exclusive=True)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise LinkError(_port_sentence(port, error)) from error
        self._error = serial.SerialException

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._port.write(data)
            self._port.flush()
        except (OSError, self._error) as error:
            raise LinkError(f"cannot write to {self.name}: {_reason(error)}; is the board still plugged in?") from error

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """At least one byte, or b"" after `timeout_s`."""
        try:
            self._port.timeout = max(timeout_s, 0)
            first = self._port.read(1)
            self._port.timeout = 0
            return first + self._port.read(min(max_bytes - 1, self._port.in_waiting)) if first else b""
        except (OSError, self._error) as error:
            raise LinkError(f"cannot read from {self.name}: {_reason(error)}; is the board still plugged in?") from error

    def close(self) -> None:
        """Give the port back."""
        self._port.close()


class SocketLink:
    """A TCP connection: an emulator's UART, or a serial server."""

    def __init__(self, host: str, port: int, timeout_s: float = 10.0) -> None:
        self.name = f"socket://{host}:{port}"
        self.mend = "is the firmware running behind that port?"
        try:
            self._socket = socket.create_connection((host, port), timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise LinkError(f"cannot connect to {self.name}: {_reason(error)}; start the emulator or serial server first") from error

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._socket.settimeout(10)
            self._socket.sendall(data)
        except OSError as error:
            raise LinkError(f"cannot write to {self.name}: {_reason(error)}; connect again") from error

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """At least one byte, or b"" after `timeout_s`."""
        try:
            self._socket.settimeout(max(timeout_s, 1e-4))  # 0 would mean not to wait, with another error
            data = self._socket.recv(max_bytes)
        except TimeoutError:
            return b""
        except OSError as error:
            raise LinkError(f"cannot read from {self.name}: {_reason(error)}; connect again") from error
        if not data:
            raise LinkError(f"{self.name} closed the connection; is the emulator or serial server still running?")
        return data

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def open_link(url: str, baud: int = BAUD) -> Link:
    """The link that `url` names.

    /dev/ttyACM0, COM3, serial:///dev/ttyACM0?baud=57600   a serial port
    socket://localhost:5555                               a TCP socket
    emulator:stm32f405:out/firmware/model.elf              this computer as that board

    Raises `UsageError` for a form that is none of these, `LinkError` when it cannot be opened.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "socket":
            return _open_socket(url, rest)
        case "emulator":
            return _open_emulator(url, rest)
        case "serial":
            return _open_serial(url, rest.removeprefix("//"), baud)
    if "://" in url or not url:
        raise UsageError(f"{url!r} names no link; known forms are {FORMS}")
    return SerialLink(url, baud)


def drain(link: Link, limit_s: float = 1.0) -> int:
    """Read away what stands in the link, boot messages say; how many bytes that were. Ends after `limit_s` under a flood."""
    count, end = 0, time.monotonic() + limit_s
    while time.monotonic() < end:
        data = link.read(4096, 0.0)
        if not data:
            break
        count += len(data)
    return count


def _open_socket(url: str, rest: str) -> Link:
    host, _, port = rest.removeprefix("//").rpartition(":")
    if not rest.startswith("//") or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{url!r} names no socket; write socket://host:port, for example socket://localhost:5555")
    return SocketLink(host.strip("[]"), int(port))


def _open_serial(url: str, rest: str, baud: int) -> Link:
    port, _, query = rest.partition("?")
    if query:
        key, _, value = query.partition("=")
        if key != "baud" or not value.isdigit() or int(value) == 0:
            raise UsageError(f"{url!r} has the option {query!r}; the only one is baud, for example ?baud=115200")
        baud = int(value)
    if not port:
        raise UsageError(f"{url!r} names no port; write serial:///dev/ttyACM0 or serial://COM3")
    return SerialLink(port, baud)


def _open_emulator(url: str, rest: str) -> Link:
    device, _, elf = rest.partition(":")
    if not device or not elf:
        raise UsageError(f"{url!r} names no emulated board; write emulator:<device>:<firmware.elf>")
    if not Path(elf).is_file():
        raise UsageError(f"the firmware {elf} that {url!r} asks for does not exist; compile the model first")
    from firmware_bridge.emulator import EmulatedBoard, EmulatorLink  # type: ignore[attr-defined]
    from targets.device import load_device

    return EmulatorLink(EmulatedBoard(load_device(device), elf))


def _pyserial() -> Any:
    try:
        import serial
    except ImportError as error:
        raise ToolError('serial ports need pyserial; run: pip install "embarq[bridge]"') from error
    return serial


def _port_sentence(port: str, error: Exception) -> str:
    """Why `port` did not open, and the mend."""
    text = str(error).lower()
    if isinstance(error, ValueError):
        return f"cannot open {port}: {error}; choose a usual baud rate such as {BAUD}"
    if "exclusively lock" in text or "resource busy" in text or "access is denied" in text:
        return f"{port} is busy: another program holds it; close the terminal or debugger that uses it"
    if "permission denied" in text:
        return f"cannot open {port}: permission denied; add yourself to the group that owns it (dialout or uucp) and log in again"
    if "no such file" in text or "could not find" in text or "filenotfound" in text:
        return f"there is no port {port}; {_present()}"
    return f"cannot open {port}: {_reason(error)}; {_present()}"


def _present() -> str:
    from serial.tools import list_ports

    names = [info.device for info in list_ports.comports()]
    return f"this computer has {', '.join(names[:8])}" if names else "this computer has no serial ports now: plug the board in"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
