"""An SSH connection to a Linux device: the user's own configuration and keys, host keys always checked, no password anywhere but in memory."""

from __future__ import annotations

import contextlib
import getpass
import logging
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from firmware_bridge import ssh_errors
from firmware_bridge.runner import LAST_WORDS_BYTES, Fate
from sdk.errors import LinkError, UsageError

#: Asks the user for a secret; the argument says for what. None: the user does not want to say.
Ask = Callable[[str], str | None]
CONNECT_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 120.0
KEEPALIVE_S = 15
PIECE = 1 << 17
FORM = "ssh://user@host:port/path?python=/path/to/python3"
QUERY = ("python", "engine")


@dataclass(frozen=True)
class SshTarget:
    """A parsed `ssh://` address. `path` is the folder on the device: absolute, or relative to the user's home; None: not given."""

    host: str
    user: str | None = None
    port: int | None = None
    path: str | None = None
    python: str | None = None
    engine: str | None = None


def parse_target(text: str) -> SshTarget:
    """`ssh://pi@host`, `ssh://pi@host:2222/srv/models/kws`, `ssh://host/~/models?python=/opt/py/bin/python3&engine=tflite-runtime`.

    Raises `UsageError`; an address with a password in it is refused without repeating it.
    """
    parts = urlsplit(text)
    if parts.password is not None:
        raise UsageError(f"a password does not belong into an address, where others can read it; leave it out of {FORM} and use a key, or be asked for it")
    try:
        port = parts.port
    except ValueError:
        raise UsageError(f"the port in the address of {parts.hostname} is not a number up to 65535; write {FORM}") from None
    if parts.scheme != "ssh" or not parts.hostname or parts.fragment:
        raise UsageError(f"{text!r} is not an SSH address; write {FORM}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [key for key in query if key not in QUERY]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not known in an SSH address; there are {', '.join(QUERY)}, as in {FORM}")
    user = unquote(parts.username) if parts.username else None
    if re.search(r"[\x00-\x1f]", parts.path + parts.query) or parts.hostname.startswith("-") or (user or "").startswith("-"):
        raise UsageError(f"the address of {parts.hostname.lstrip('-')} holds characters that no name or path has; write {FORM}")
    path = unquote(parts.path).rstrip("/")
    path = path[3:] if path.startswith("/~/") else "" if path == "/~" else path
    return SshTarget(parts.hostname, user, port, path or None, query.get("python"), query.get("engine"))


@dataclass(frozen=True)
class Done:
    """A finished command: exit code (None: killed by a signal, which a shell tells as 128 and more), its two outputs."""

    code: int | None
    out: str
    err: str


class SshHost:
    """An open connection. Close it, or use it as a context manager. `name` is how error sentences call the device."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self.name = client, name

    def __enter__(self) -> SshHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; further calls do nothing."""
        self._client.close()

    def channel(self, command: str) -> Any:
        """A channel that runs `command` in `sh`, whatever the user's login shell is. Raises `LinkError`."""
        try:
            channel = self._client.get_transport().open_session(timeout=CONNECT_TIMEOUT_S)
            channel.exec_command("sh -c " + shlex.quote(command))
        except Exception as error:  # paramiko raises SSHException, EOFError, OSError and AttributeError (no transport) for one thing: it is gone
            raise ssh_errors.cut(self.name, "starting a command") from error
        return channel

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S, stdin: bytes = b"") -> Done:
        """Run a shell command to its end. Raises `LinkError` when the connection breaks or the command takes too long."""
        channel = self.channel(command)
        with contextlib.suppress(OSError, EOFError):  # what the command says of it is told by `finish`
            channel.sendall(stdin)
            channel.shutdown_write()
        return self.finish(channel, f"running {command.split()[0]}", timeout_s)

    def finish(self, channel: Any, what: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Done:
        """Read a channel to its end."""
        out, err, limit = bytearray(), bytearray(), time.monotonic() + timeout_s
        while not (channel.eof_received or channel.closed):  # not the exit status: output may come after it
            _drain(channel, out, err)
            if time.monotonic() > limit:
                channel.close()
                raise LinkError(f"{what} on {self.name} took longer than {timeout_s:.0f} s; is the device overloaded?")
            time.sleep(0.005)
        channel.status_event.wait(10)
        _drain(channel, out, err)
        code = channel.exit_status
        channel.close()
        if code < 0 and not self.alive():
            raise ssh_errors.cut(self.name, what)
        return Done(code if 0 <= code <= 128 else None, out.decode(errors="replace"), err.decode(errors="replace"))

    def alive(self) -> bool:
        """False when the connection is gone. Waits a moment: a channel's end may be seen before the connection's."""
        transport = self._client.get_transport()
        for _ in range(10):
            if transport is None or not transport.is_active():
                return False
            time.sleep(0.02)
        return True

    def pipe(self, command: str) -> SshPipe:
        """`command` running, its stdin and stdout as a pipe."""
        return SshPipe(self, self.channel(command))


def _drain(channel: Any, out: bytearray, err: bytearray) -> None:
    """What has arrived on both streams; a stream left unread would stop the other side."""
    while channel.recv_ready():
        out += channel.recv(PIECE)
    while channel.recv_stderr_ready():
        err += channel.recv_stderr(PIECE)


class SshPipe:
    """A runner on the device, over a channel of an SSH connection."""

    def __init__(self, host: SshHost, channel: Any) -> None:
        self.name, self._host, self._channel = host.name, host, channel
        self._err = bytearray()

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._channel.settimeout(COMMAND_TIMEOUT_S)
            self._channel.sendall(data)
        except (OSError, EOFError) as error:
            raise LinkError(f"the runner on {self.name} is gone; open the session again") from error

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """At least one byte, b"" at the end."""
        limit = time.monotonic() + timeout_s
        while True:
            self._keep_errors()
            try:
                # short waits: an engine that talks on stderr must be read meanwhile, or it stops when the window is full
                self._channel.settimeout(0.2)
                return bytes(self._channel.recv(max_bytes))
            except TimeoutError:
                if time.monotonic() > limit:
                    raise LinkError(f"the runner on {self.name} did not answer in {timeout_s:.0f} s; give it more time or fewer repeats") from None

    def _keep_errors(self) -> None:
        while self._channel.recv_stderr_ready():
            self._err += self._channel.recv_stderr(PIECE)
            del self._err[:-LAST_WORDS_BYTES]

    def fate(self) -> Fate:
        """How the runner ended; empty when the connection itself is gone."""
        self._channel.status_event.wait(10)
        self._keep_errors()
        if not self._host.alive():
            return Fate()
        code = self._channel.exit_status
        said = self._err.decode(errors="replace")
        if code == -1:  # a signal ended it: paramiko does not keep which
            return Fate(None, 0, said) if self._channel.status_event.is_set() else Fate()
        return Fate.of_code(code, said)

    def close(self) -> None:
        """End the runner (its input ends) and let the channel go."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()
            self._channel.status_event.wait(5)
        self._channel.close()


def connect(target: SshTarget, ask: Ask | None = None) -> SshHost:
    """Connect as ~/.ssh/config says, with the agent's keys and those in ~/.ssh.

    ask: called for a key's passphrase or, when no key is accepted, for the password; without it neither is used.
    Raises `LinkError` (unknown host, changed host key, refused key, no answer), `ToolError` without paramiko.
    """
    try:
        import paramiko
    except ImportError as error:
        raise ssh_errors.no_paramiko() from error
    config = _config(paramiko, target.host)
    host = str(config.get("hostname", target.host))
    port = target.port or int(config.get("port", 22))
    user = target.user or config.get("user") or getpass.getuser()
    client = _client(paramiko, config, host, port)
    try:
        _authenticate(paramiko, client, config, (user, host, port), ask)
    except BaseException:
        client.close()
        raise
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(KEEPALIVE_S)
    return SshHost(client, host if port == 22 else f"{host}:{port}")


def _config(paramiko: Any, host: str) -> Mapping[str, Any]:
    path = Path("~/.ssh/config").expanduser()
    if not path.is_file():
        return {}
    try:
        return dict(paramiko.SSHConfig.from_path(str(path)).lookup(host))
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise UsageError(f"{path} cannot be read ({error}); mend it, or move it aside") from error


def _client(paramiko: Any, config: Mapping[str, Any], host: str, port: int) -> Any:
    """A client that knows the user's known hosts and refuses all others."""

    class Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc, name-defined]
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            raise ssh_errors.unknown_host(host, port, key.get_name(), key.asbytes())

    client = paramiko.SSHClient()
    # its threads log tracebacks of broken connections, which Python prints when nobody listens; ours are errors with a sentence
    logger = logging.getLogger("embarq.ssh")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    client.set_log_channel(logger.name)
    named = str(config.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
    for name in ("/etc/ssh/ssh_known_hosts", *named):
        path = Path(name).expanduser()
        if path.is_file():
            client.load_system_host_keys(str(path))  # read only: nothing is ever written back
    client.set_missing_host_key_policy(Refuse())
    return client


def _authenticate(paramiko: Any, client: Any, config: Mapping[str, Any], where: tuple[str, str, int], ask: Ask | None) -> None:
    user, host, port = where
    files = [str(Path(name).expanduser()) for name in config.get("identityfile", []) if Path(name).expanduser().is_file()]
    only = str(config.get("identitiesonly", "no")).lower() == "yes"
    keys: dict[str, Any] = {"key_filename": files or None, "allow_agent": not only, "look_for_keys": not files}
    try:
        _connect(paramiko, client, config, where, keys)
        return
    except paramiko.PasswordRequiredException:
        secret = ask(f"passphrase of the key for {user}@{host}") if ask else None
        again = {**keys, "passphrase": secret} if secret else None
    except paramiko.AuthenticationException:
        secret = ask(f"password of {user}@{host}") if ask else None
        again = {"password": secret, "allow_agent": False, "look_for_keys": False} if secret else None
    if again is None:
        raise ssh_errors.refused_key(user, host, port, False)
    try:
        _connect(paramiko, client, config, where, again)
    except (paramiko.AuthenticationException, paramiko.PasswordRequiredException):
        raise ssh_errors.refused_key(user, host, port, True) from None  # the cause may hold what was typed


def _connect(paramiko: Any, client: Any, config: Mapping[str, Any], where: tuple[str, str, int], keys: Mapping[str, Any]) -> None:
    user, host, port = where
    timeout_s = float(config.get("connecttimeout", CONNECT_TIMEOUT_S))
    try:
        client.connect(host, port, user, sock=_proxy(paramiko, config, host, port), timeout=timeout_s, banner_timeout=timeout_s, auth_timeout=30, **keys)
    except paramiko.BadHostKeyException as error:
        raise ssh_errors.changed_host_key(host, port, error.key.get_name(), error.key.asbytes(), error.expected_key.asbytes()) from error
    except paramiko.AuthenticationException:
        raise
    except (OSError, EOFError, paramiko.SSHException) as error:
        if "No authentication methods available" in str(error):
            raise paramiko.AuthenticationException(str(error)) from error
        raise ssh_errors.not_reached(host, port, error) from error


def _proxy(paramiko: Any, config: Mapping[str, Any], host: str, port: int) -> Any:
    """The way through ProxyCommand or ProxyJump, None for a direct one. OpenSSH's own client makes the jump."""
    command, jump = config.get("proxycommand"), config.get("proxyjump")
    if jump and jump.lower() != "none":
        command = f"ssh -W {shlex.quote(f'{host}:{port}')} {shlex.quote(jump)}" if "," not in jump else None
        if command is None:
            raise UsageError(f"ProxyJump through several hosts ({jump}) is not supported for {host}; use a ProxyCommand in ~/.ssh/config")
    return paramiko.ProxyCommand(command) if command and command.lower() != "none" else None
