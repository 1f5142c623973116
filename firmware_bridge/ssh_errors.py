"""What can go wrong on the way to a device over SSH, each as one sentence with its mend."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import socket

from sdk.errors import DeviceError, EmbarqError, LinkError, ToolError

NO_SPACE = ("no space left", "disk quota exceeded", "file too large", "disk full")


def no_paramiko() -> ToolError:
    """The extra is not installed."""
    return ToolError("reaching a device over SSH needs paramiko: pip install 'embarq[ssh]'")


def fingerprint(key_blob: bytes) -> str:
    """As `ssh-keygen -l` shows it: SHA256:... without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key_blob).digest()).decode().rstrip("=")


def _entry(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def unknown_host(host: str, port: int, kind: str, blob: bytes) -> LinkError:
    """No known_hosts names this host; it is never added here."""
    scan = f"ssh-keyscan -p {port} {host} >> ~/.ssh/known_hosts"
    shown = f"{kind} key is {fingerprint(blob)}: when `ssh-keygen -lf` on the device shows the same"
    return LinkError(f"{_entry(host, port)} is not in known_hosts; its {shown}, add it with: {scan}")


def changed_host_key(host: str, port: int, kind: str, found: bytes, known: bytes) -> LinkError:
    """known_hosts has another key for this host."""
    return LinkError(
        f"the {kind} host key of {_entry(host, port)} is {fingerprint(found)} and known_hosts says {fingerprint(known)}: someone may be in between; "
        f"if the device was set up anew, forget the old key with: ssh-keygen -R {shlex.quote(_entry(host, port))}"
    )


def refused_key(user: str, host: str, port: int, asked: bool) -> LinkError:
    """The device takes none of our keys (nor the password, where one was asked for)."""
    what = "neither a key nor the password" if asked else "none of the keys of the agent and ~/.ssh"
    return LinkError(f"{host} accepts {what} for user {user}; put your key there with: ssh-copy-id -p {port} {user}@{host}")


def not_reached(host: str, port: int, error: BaseException) -> LinkError:
    """No TCP connection, or something that does not speak SSH."""
    if isinstance(error, socket.gaierror):
        return LinkError(f"the name {host} is not known ({error.strerror}); check its spelling, or give the IP address")
    if isinstance(error, TimeoutError):
        return LinkError(f"{_entry(host, port)} did not answer in time; is the device on and in this network?")
    return LinkError(f"{_entry(host, port)} cannot be reached ({_short(error)}); is the device on, and sshd running there?")


def cut(name: str, what: str) -> LinkError:
    """The connection broke while doing `what`."""
    return LinkError(f"the connection to {name} broke while {what}; run the same command again, it goes on where it stopped")


def no_space(name: str, path: str, needed: int, free: int | None) -> DeviceError:
    """Not enough room on the device, found out before or while writing."""
    have = f"{free:,} are free" if free is not None else "the disk is full"
    return DeviceError(f"{name} needs {needed:,} bytes under {path} and {have}; delete something there or give another path: ssh://user@host/path")


def is_no_space(text: str) -> bool:
    """True for what `cat` and `tar` say on a full disk, over a quota or a limit of file sizes."""
    return any(words in text.lower() for words in NO_SPACE)


def no_python(name: str, tried: str) -> DeviceError:
    """No interpreter to run the runner with."""
    return DeviceError(f"{name} has no {tried}; install it (apt-get install python3 python3-venv) or name one: ssh://user@host/path?python=/path/to/python3")


def old_python(name: str, python: str, version: str, oldest: str) -> DeviceError:
    """An interpreter too old for the runner."""
    return DeviceError(f"{python} on {name} is Python {version} and the runner needs {oldest} or newer; install one and name it: ?python=/path/to/python3")


def stopped(name: str, path: str) -> LinkError:
    """The command that writes was killed on the device."""
    return LinkError(f"writing {path} on {name} was stopped there; run the same command again, it goes on where it stopped")


def damaged(name: str, path: str) -> LinkError:
    """All bytes came and their hash is another one."""
    return LinkError(f"{path} arrived damaged on {name} and was removed there; run the same command again")


def command_failed(name: str, what: str, said: str) -> EmbarqError:
    """A shell command on the device failed for a reason that only its own words tell."""
    return DeviceError(f"{name} cannot {what}: {_short(said)}; check the path's permissions, or give another: ssh://user@host/path")


def _short(error: BaseException | str) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return text[:200]
