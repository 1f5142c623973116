"""`embarq calibrate`: measure a Linux device in about a minute, and write a device file of one's own with its rates.

    found = measure_rates(load_device("rpi-4b"), "ssh://pi@raspberrypi.local")
    text = device_file(found, "mypi")          # extends = "rpi-4b", [[rates]] with their source

Copying and plain matrix products are measured by the runner, which needs numpy only. Each engine that is installed there, and
that this computer can write a file for, then runs a small net at each precision, on one thread and on all.
"""

from __future__ import annotations

import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sdk.artifact import Artifact, linux_artifact
from sdk.errors import DeviceError, EmbarqError, LinkError, UsageError
from sdk.golden import Golden
from sdk.linux import probe
from sdk.planner.linux_records import LinuxPlan
from sdk.planner.recipes import Recipe
from sdk.planning import plan_model
from targets.detect import ARCHS
from targets.device import Device

Progress = Callable[[str], None]
ENGINES = ("onnx", "litert", "executorch")  # TensorRT builds its engine for minutes, and is then measured itself
RUNNER_TIMEOUT_S = 300.0
RUNNER_SECONDS = 2.0  # for each of the runner's own figures
#: Inferences of the probe: a first round tells how many fill the second one.
FIRST_REPEATS, MOST_REPEATS, ROUND_MS = 5, 200, 1000.0
HEADER = "# Measured by `embarq calibrate`."


@dataclass(frozen=True)
class Found:
    """What was measured of `device`: `about` says on what, `rates` are (name, "macs_s" or "bytes_s", value), `notes` what could not be."""

    device: Device
    about: str
    date: str
    rates: tuple[tuple[str, str, int], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rates = [{"name": name, kind: value} for name, kind, value in self.rates]
        return {"device": self.device.name, "about": self.about, "date": self.date, "rates": rates, "notes": list(self.notes)}


def measure_rates(device: Device, target: str = "local", progress: Progress | None = None, ask: Any = None) -> Found:
    """Measure `target`, "local" or "ssh://user@host", which is a `device`.

    ask: called for a passphrase or password when no key is accepted.
    Raises `UsageError` for a microcontroller, `DeviceError` for a machine of another architecture, `LinkError`.
    """
    if device.kind != "linux":
        raise UsageError(f"{device.name} is a microcontroller, whose cycles are counted; calibrate a Linux device (embarq devices)")
    tell = progress or (lambda _: None)
    tell("copying and multiplying")
    said = run_calibrate(target, ask)
    check_machine(device, target, str(said["machine"]))
    rates = [(row["name"], kind, int(row[kind])) for row in said["rates"] for kind in ("bytes_s", "macs_s") if kind in row]
    notes: list[str] = []
    versions: dict[str, str] = {}
    for name, value, version in _engine_rates(device, target, int(said["cores"]), tell, notes, ask):
        rates.append((name, "macs_s", value))
        versions[name.split("/")[0]] = version
    parts = [f"Python {said['python']}", f"numpy {said['numpy']}", *(f"{name} {version}" for name, version in versions.items())]
    about = f"{said['processor']} ({said['machine']}, {said['cores']} cores) with {', '.join(parts)}"
    return Found(device, about, datetime.date.today().isoformat(), tuple(rates), tuple(notes))


def check_machine(device: Device, target: str, machine: str) -> None:
    """Raises `DeviceError` when the machine that answered cannot be the device."""
    found = {"armv7": "armv8-a"}.get(machine, ARCHS.get(machine, machine))  # a 64-bit core under a 32-bit system
    if device.core.arch not in (found, "unknown"):
        where, mend = ("this computer", "give its address with --to ssh://user@host") if target == "local" else (target, "name the device that it is")
        raise DeviceError(f"{device.name} is {device.core.arch} and {where} is {found}; {mend}")


# ---- the runner's own figures ----


def run_calibrate(target: str, ask: Any = None, seconds: float = RUNNER_SECONDS) -> Mapping[str, Any]:
    """What `embarq-run calibrate --json` prints on the target."""
    from sdk.zipapp import runner_zipapp

    if target == "local":
        with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
            path = Path(folder) / "embarq-run.pyz"
            path.write_bytes(runner_zipapp())
            command = [sys.executable, str(path), "calibrate", "--json", "--seconds", str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=RUNNER_TIMEOUT_S, check=False)
        return _answer(done.returncode, done.stdout, done.stderr, "this computer")
    if not target.startswith("ssh://"):
        raise UsageError(f"{target!r} is no Linux device; give local or ssh://user@host")
    return _over_ssh(target, runner_zipapp(), ask, seconds)


def _over_ssh(target: str, runner: bytes, ask: Any, seconds: float) -> Mapping[str, Any]:
    from firmware_bridge.ssh import connect, parse_target
    from firmware_bridge.ssh_slot import find_python

    address = parse_target(target)
    with connect(address, ask) as host:
        python = shlex.quote(find_python(host, address.python))
        line = f'f=$(mktemp) && cat > "$f" && {python} "$f" calibrate --json --seconds {seconds}; code=$?; rm -f "$f"; exit $code'
        done = host.run(line, RUNNER_TIMEOUT_S, stdin=runner)
        return _answer(done.code, done.out, done.err, host.name)


def _answer(code: int | None, out: str, err: str, name: str) -> Mapping[str, Any]:
    """The runner's JSON, or what it said as an error."""
    from firmware_bridge.runner import Fate, fate_error

    try:
        if code == 0:
            return dict(json.loads(out.splitlines()[-1]))
    except (ValueError, IndexError):
        pass
    fate = Fate(None, 0, err) if code is None else Fate.of_code(code, err)
    raise fate_error(fate, name, DeviceError(f"{name} gave no figures; run the same command again"))


# ---- the engines ----


def _engine_rates(device: Device, target: str, cores: int, tell: Progress, notes: list[str], ask: Any) -> Iterator[tuple[str, int, str]]:
    """(name, MACs a second, the engine's version) of every recipe that runs; the reason of each that does not goes to `notes`."""
    models: dict[str, Any] = {}
    for engine in (e for e in device.backends if e in ENGINES):
        for precision, kind in probe.KIND_OF.items():
            tell(f"building the probe for {engine} {precision}")
            try:
                models[kind] = models.get(kind) or probe_model(kind)
                for artifact in probe_artifacts(device, models[kind], kind, engine, precision, sorted({1, cores})):
                    yield _measure(artifact, target, probe.MACS[kind], tell, ask)
            except LinkError:
                raise  # the connection is gone: nothing more can be measured
            except EmbarqError as error:
                notes.append(f"{engine} {precision} was not measured: {error}")


def probe_model(kind: str) -> Any:
    """The probe net, loaded. Raises UsageError without torch."""
    import sdk
    from sdk.backends.foreign import require

    torch = require("torch", "torch", "writing the small nets that engines are timed by")
    return sdk.load(probe.module(kind), example=torch.from_numpy(probe.inputs(kind)), name=f"probe-{kind}")


def probe_artifacts(device: Device, model: Any, kind: str, engine: str, precision: str, threads: Sequence[int]) -> Iterator[Artifact]:
    """The probe for an engine at a precision, an artifact for each number of threads."""
    calibration = None if precision == "float32" else np.concatenate([probe.inputs(kind)] * 2)
    plan = plan_model(device, model, backend=engine, precision=precision, threads=list(threads), calibration=calibration, vectors=[probe.inputs(kind)])
    assert isinstance(plan, LinuxPlan)
    refusal = plan.candidates[0].refusal
    if refusal is not None:
        raise UsageError(refusal)
    payload = import_module(f"sdk.backends.{engine}").emit(model, plan.candidates[0].recipe, plan.calibration or (), lambda _: None)
    return (timed_artifact(plan, candidate.recipe, payload) for candidate in plan.candidates)


def timed_artifact(plan: LinuxPlan, recipe: Recipe, payload: Any) -> Artifact:
    """An artifact that is only timed: its inputs are real, its golden outputs are zeros, which nobody compares."""
    outputs = tuple(np.zeros(port.shape, port.dtype) for port in payload.outputs)
    return linux_artifact(plan, recipe, payload, Golden(tuple(plan.vectors[:1]), (outputs,), ((),)), 1.0)


def _measure(artifact: Artifact, target: str, macs: int, tell: Progress, ask: Any) -> tuple[str, int, str]:
    """The rate of the fastest inference: what else runs on the device must not count."""
    from sdk.remote import open_remote

    recipe = artifact.manifest["recipe"]
    name = f"{recipe['engine']}/{recipe['precision']}/{recipe['threads']}t"
    tell(name)
    with open_remote(artifact, target, verify=False, activate=False, ask=ask) as session:
        first = session.bench(repeats=FIRST_REPEATS, warmup=2)
        repeats = max(FIRST_REPEATS, min(MOST_REPEATS, round(ROUND_MS / max(min(first.ms), 1e-3))))
        found = session.bench(repeats=repeats, warmup=1)
    return name, round(macs / (min(*first.ms, *found.ms) / 1e3)), found.engine_version


# ---- the device file ----


def device_file(found: Found, name: str, extends: str) -> str:
    """The TOML of a device called `name` that extends another (a shipped name, or a file seen from where this one will lie)."""
    import sdk

    source = f"measured on {found.date} by embarq {sdk.__version__} calibrate, on {found.about}"
    lines = [f"{HEADER} Plan with it: embarq plan ./{name}.toml MODEL", f"name = {_text(name)}", f"extends = {_text(extends)}", ""]
    lines += ["[sources]", f"calibrate = {_text(source)}"]
    for rate, kind, value in found.rates:
        lines += ["", "[[rates]]", f"name = {_text(rate)}", f"{kind} = {value}", 'source = "calibrate"']
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A TOML basic string, which JSON's ASCII form is too."""
    return json.dumps(value)
