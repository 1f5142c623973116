"""The artifact: what `compile` makes, what is saved, opened, flashed and proved. ARTIFACT.md specifies its folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.bundle import FORMAT, MANIFEST, VERSION, canonical_json, file_entry, read_bundle, write_bundle
from sdk.errors import DeviceError, DoesNotFit, UsageError
from sdk.golden import FLOAT_TOLERANCE, Golden, make_golden, npy_array, npy_bytes, random_inputs
from sdk.graph.ir import Graph, Tensor

if TYPE_CHECKING:
    from sdk.backends.payload import Payload, Port
    from sdk.backends.samples import LayerError
    from sdk.planner.linux_records import LinuxPlan, Measured
    from sdk.planner.plan import Plan
    from sdk.planner.recipes import Recipe
    from sdk.planner.training.plan import TrainingPlan
    from sdk.remote import RemoteSession
    from sdk.session import Session
    from targets.device import Device

Progress = Callable[[str], None]
ELF = "firmware/model.elf"
DEVICE_FILE = "device.toml"


@dataclass(frozen=True)
class Artifact:
    """A manifest and the files it lists, in memory; `save` writes them, `flash` puts them on a board and proves them."""

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes] = field(repr=False)
    device: Device = field(repr=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["name"])

    @property
    def golden(self) -> Golden:
        """The golden vectors, read from the files."""
        record = self.manifest["golden"]

        def read(kind: str, count: int) -> tuple[tuple[np.ndarray, ...], ...]:
            return tuple(
                tuple(npy_array(self.files[f"golden/{v}_{kind}_{i}.npy"], f"golden/{v}_{kind}_{i}.npy") for i in range(count))
                for v in range(record["vectors"])
            )

        crcs = tuple(tuple(int(c) for c in row) for row in record["step_crc32"])
        return Golden(read("input", len(self.manifest["inputs"])), read("output", len(self.manifest["outputs"])), crcs)

    def tensors(self, kind: str) -> tuple[Tensor, ...]:
        """The model's "inputs" or "outputs" as tensors without data."""
        return tuple(_tensor(entry) for entry in self.manifest[kind])

    def save(self, folder: str | Path) -> Path:
        """Write the folder, whole or not at all; its path. Raises `UsageError` when the disk is full or the folder is not ours."""
        path = Path(folder)
        write_bundle(path, self.manifest, self.files)
        return path

    @property
    def is_linux(self) -> bool:
        """True for an artifact that an engine on a Linux device runs, false for a microcontroller's."""
        return "recipe" in self.manifest

    def flash(
        self, target: str | None = None, *, progress: Progress | None = None, verify: bool = True, ask: Callable[[str], str | None] | None = None
    ) -> Session | RemoteSession:
        """Put the artifact on its device and prove it there: a running session.

        target, for a microcontroller: "emulator" (the default: the plan's device, emulated), a serial port ("/dev/ttyACM0", "COM3")
        or "socket://host:port". Behind a port, the firmware must already be on the board: write `firmware/model.bin` (or .uf2) with
        the board's own tool. For a Linux device: "local" (the default: this computer) or "ssh://user@host".
        ask: called with a question for a passphrase or password when no key is accepted over SSH; without it that is an error.
        Raises `VerificationFailed` naming the first layer or output that differs, `LinkError` when nothing answers, `BoardFault`.
        """
        if self.is_linux:
            from sdk.remote import open_remote

            return open_remote(self, target or "local", progress, verify=verify, ask=ask)
        from sdk.session import open_session

        session = open_session(self, target or "emulator")
        if verify:
            try:
                session.verify(progress=progress).check()
            except BaseException:
                session.close()
                raise
        return session

    def measured_text(self) -> tuple[str, ...]:
        """What was measured when a Linux artifact was chosen, as a table; nothing for a microcontroller's."""
        from sdk.planner.linux_report import layers_text, measured_text

        return tuple(text for text in (measured_text(self._planned("measured")), layers_text(self.layer_errors)) if text)

    @property
    def layer_errors(self) -> list[dict[str, Any]]:
        """For a Linux artifact planned with `quant_report=True`: {"layer", "op", "sqnr_db"} of each layer, everything in front quantised."""
        return self._planned("layer_errors")

    def _planned(self, key: str) -> list[dict[str, Any]]:
        import json

        return list(json.loads(self.files["plan.json"]).get(key, [])) if self.is_linux else []

    def elf(self) -> bytes:
        """The firmware; raises `DeviceError` where the artifact holds a C library only."""
        if ELF not in self.files:
            raise DeviceError(f"{self.name} for {self.device.name} is a C library, not a firmware; build library/ into your own project")
        return self.files[ELF]

    def __str__(self) -> str:
        cost = self.manifest["cost"]
        figures = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in cost.items() if isinstance(value, int))
        return f"{self.name} for {self.device.name}: {len(self.files)} files; {figures}"


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    from sdk.graph.ir import Quant

    try:
        quant = Quant((entry["scale"],), (entry["zero_point"],)) if entry.get("scale") else None
        return Tensor(entry["name"], tuple(entry["shape"]), entry["dtype"], quant)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the artifact's manifest describes an input or output wrongly ({error}); compile it again") from error


def compile_plan(plan: Plan | LinuxPlan | TrainingPlan, progress: Progress | None = None) -> Artifact:
    """Everything `plan` describes, built. Raises `DoesNotFit`, `ToolError`, `UnsupportedOp`, `VerificationFailed`."""
    from sdk.planner.linux_records import LinuxPlan
    from sdk.planner.training.plan import TrainingPlan

    if isinstance(plan, TrainingPlan):
        return training_artifact(plan, progress)
    if isinstance(plan, LinuxPlan):
        from sdk.linux import compile_linux
        from sdk.remote import open_remote

        return compile_linux(plan, linux_artifact, lambda artifact, target: open_remote(artifact, target, verify=False, activate=False), progress)
    if not plan.fits:
        raise DoesNotFit(_does_not_fit(plan))
    tell = progress or (lambda _: None)
    from sdk.backends.firmware import emit

    emitted = emit(plan, tell)
    tell("golden vectors")
    golden = _golden(plan)
    files = dict(emitted.files)
    files.update(_golden_files(golden))
    learning = _learning(plan, files)
    files["plan.json"] = canonical_json(plan.to_dict())
    files["report.html"] = plan.to_html().encode()
    files["sbom.cdx.json"] = canonical_json(_sbom(plan, emitted.compiler))
    files.update(_device_files(plan.device))
    manifest = {**_manifest(plan, golden, emitted, files), **learning}
    return Artifact(manifest, files, plan.device)


def _learning(plan: Plan, files: dict[str, bytes]) -> dict[str, Any]:
    """The manifest's entry on training, and the files that prove a step; nothing for a model that does not learn."""
    if plan.training is None:
        return {}
    from sdk.training.mcu.golden import golden_files, make_training_golden, training_manifest

    golden = make_training_golden(plan)
    files.update(golden_files(golden))
    return {"training": training_manifest(plan, golden)}


def _inference(plan: Plan) -> Graph:
    """What the model computes without learning: the plan's graph, or the first nodes of its training step."""
    from sdk.planner.mcu_training import inference_part

    return inference_part(plan.graph, plan.training) if plan.training else plan.graph


def _does_not_fit(plan: Plan) -> str:
    over = "; ".join(str(s) for s in plan.shortfall)
    mend = f"; try: {plan.mends[0]}" if plan.mends else ""
    return f"{plan.name} does not fit {plan.device.name}: {over}{mend}"


def _golden(plan: Plan) -> Golden:
    graph = _inference(plan)
    inside = {node.name for node in graph.nodes}
    steps = {step.call.node: step.output for step in plan.steps if step.call is not None and step.node in inside}
    vectors = [vector[: len(graph.inputs)] for vector in plan.vectors] or random_inputs(graph, 3)
    return make_golden(graph, vectors, steps)


def _golden_files(golden: Golden) -> dict[str, bytes]:
    files = {}
    for kind, rows in (("input", golden.inputs), ("output", golden.outputs)):
        for v, row in enumerate(rows):
            files.update({f"golden/{v}_{kind}_{i}.npy": npy_bytes(array) for i, array in enumerate(row)})
    return files


def _describe(graph: Graph, names: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        tensor = graph[name]
        one = tensor.quant is not None and len(tensor.quant.scale) == 1
        scale, zero_point = (tensor.scale, tensor.zero_point) if one else (None, None)
        rows.append({"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape), "scale": scale, "zero_point": zero_point})
    return rows


def _manifest(plan: Plan, golden: Golden, emitted: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    from sdk.backends.firmware.build import plan_id

    graph = _inference(plan)
    ops = {node.name: node.op for node in graph.nodes}
    kept = [s for s in plan.steps if s.call is not None and s.node in ops]
    steps = [{"name": s.node, "op": ops[s.node], "kernel": s.function, "output": s.output} for s in kept]
    is_float = any(plan.graph[name].dtype == "float32" for name in (s["output"] for s in steps))
    sizes = emitted.sizes
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": plan.name,
        "device": plan.device.name,
        "backend": plan.backend,
        "plan_id": plan_id(plan).hex(),
        "inputs": _describe(graph, graph.inputs),
        "outputs": _describe(graph, graph.outputs),
        "steps": steps,
        "golden": {
            "vectors": len(golden),
            "tolerance": FLOAT_TOLERANCE if is_float else 0.0,
            "step_crc32": [list(row) for row in golden.crcs],
        },
        "cost": {
            "arena_bytes": int(sum(plan.arena_bytes)),
            "text_bytes": sizes.text if sizes else None,
            "flash_bytes": sizes.flash if sizes else None,
            "data_bytes": sizes.data if sizes else None,
            "bss_bytes": sizes.bss if sizes else None,
            "stack_bound_bytes": plan.stack_bytes,
            "macs": plan.macs,
        },
        "versions": _versions(plan.compiler),
        "files": {name: file_entry(content) for name, content in sorted(files.items())},
    }


def linux_artifact(plan: LinuxPlan, recipe: Recipe, payload: Payload, golden: Golden, tolerance: float, measured: Sequence[Measured] = (),
                   layers: Sequence[LayerError] = ()) -> Artifact:  # fmt: skip
    """The artifact of one recipe: the engine's files, golden vectors, the plan and what was measured when the recipe was chosen."""
    from sdk.planner.linux_report import linux_html

    files = {f"payload/{name}": content for name, content in payload.files.items()}
    files.update(_golden_files(golden))
    files["plan.json"] = canonical_json({**plan.to_dict(), "measured": [row.to_dict() for row in measured], "layer_errors": [vars(row) for row in layers]})
    files["report.html"] = linux_html(plan, measured).encode()
    files["sbom.cdx.json"] = canonical_json(_linux_sbom(plan.name, payload))
    files.update(_device_files(plan.device))
    chosen = next((row for row in measured if row.verdict == "chosen"), None)
    options = {**payload.options, **recipe.options}
    content = {
        "format": FORMAT, "version": VERSION, "name": plan.name, "device": plan.device.name, "backend": recipe.engine,
        "recipe": {"engine": recipe.engine, "precision": recipe.precision, "threads": recipe.threads, "options": options},
        "entry": f"payload/{payload.entry}", "requires": dict(payload.requires), "machine": "any",
        "inputs": [_port(port) for port in payload.inputs], "outputs": [_port(port) for port in payload.outputs], "steps": [],
        "golden": {"vectors": len(golden), "tolerance": tolerance, "step_crc32": [[] for _ in golden.inputs]},
        "cost": {
            "file_bytes": sum(map(len, payload.files.values())), "macs": plan.base.macs, "median_ms": chosen and chosen.median_ms,
            "peak_rss_bytes": chosen and chosen.peak_rss_bytes, "measured_on": chosen and chosen.where,
        },
        "notes": list(payload.notes), "versions": _linux_versions(payload),
    }  # fmt: skip
    content["files"] = {name: file_entry(data) for name, data in sorted(files.items())}
    return Artifact(content, files, plan.device)


def training_artifact(plan: TrainingPlan, progress: Progress | None = None) -> Artifact:
    """The artifact of a model that learns on a Linux device. Raises `DoesNotFit`."""
    from sdk.training_artifact import TOLERANCE, training_parts

    payload, golden = training_parts(plan, progress)
    files = {f"payload/{name}": content for name, content in payload.files.items()}
    files.update(_golden_files(golden))
    files["plan.json"] = canonical_json(plan.to_dict())
    files["report.html"] = plan.to_html().encode()
    files["sbom.cdx.json"] = canonical_json(_linux_sbom(plan.name, payload))
    files.update(_device_files(plan.device))
    content = {
        "format": FORMAT, "version": VERSION, "name": plan.name, "device": plan.device.name, "backend": "torch",
        "recipe": {"engine": "torch", "precision": "float32", "threads": plan.threads, "options": {}},
        "entry": f"payload/{payload.entry}", "requires": dict(payload.requires), "machine": "any",
        "inputs": [_port(port) for port in payload.inputs], "outputs": [_port(port) for port in payload.outputs], "steps": [],
        "golden": {"vectors": len(golden), "tolerance": TOLERANCE, "step_crc32": [[] for _ in golden.inputs]},
        "cost": {"file_bytes": sum(map(len, payload.files.values())), "training_peak_bytes": plan.peak_bytes},
        "training": {"layers": [choice.layer for choice in plan.choices], "batch": plan.training.batch, "optimiser": plan.training.optimiser},
        "notes": list(payload.notes), "versions": _linux_versions(payload),
    }  # fmt: skip
    content["files"] = {name: file_entry(data) for name, data in sorted(files.items())}
    return Artifact(content, files, plan.device)


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape), "scale": port.scale, "zero_point": port.zero_point}


def _linux_versions(payload: Payload) -> dict[str, str]:
    import sdk

    return {"embarq": sdk.__version__, **payload.requires}


def _linux_sbom(name: str, payload: Payload) -> dict[str, Any]:
    """A CycloneDX 1.5 bill: the model, and the packages that the device must have to run it."""
    parts = [{"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"} for name, version in sorted(payload.requires.items())]
    model = {"type": "machine-learning-model", "name": name, "version": "1"}
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": model}, "components": parts}


def _versions(compiler: str) -> dict[str, str]:
    """Versions that decide the bytes; nothing of the machine, so that every machine writes the same artifact."""
    import sdk

    return {"embarq": sdk.__version__, "abi": "1", "compiler": compiler, "compiler_version": _compiler_version(compiler)}


def _compiler_version(compiler: str) -> str:
    if compiler != "zig":
        return "not pinned"
    from importlib import metadata

    try:
        return metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        return "unknown"


def _sbom(plan: Plan, compiler: str) -> dict[str, Any]:
    """A CycloneDX 1.5 bill of what is in the firmware: our runtime, and the compiler whose support library is linked."""
    import sdk

    parts = [{"type": "library", "name": "embarq-runtime", "version": sdk.__version__, "licenses": [{"license": {"id": "Apache-2.0"}}]}]
    if compiler == "zig":
        parts.append({"type": "library", "name": "compiler-rt (ziglang)", "version": _compiler_version(compiler), "licenses": [{"license": {"id": "MIT"}}]})
    model = {"type": "machine-learning-model", "name": plan.name, "version": "1"}
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": model}, "components": parts}


def open_artifact(folder: str | Path) -> Artifact:
    """Read a folder written by `save`; see ARTIFACT.md for what is refused."""
    path = Path(folder)
    manifest, files = read_bundle(path)
    artifact = Artifact(manifest, files, _device(manifest, files))
    _check_lists(artifact, path)
    return artifact


def _device_files(device: Device) -> dict[str, bytes]:
    """The user's own device file, and the ones it extends, renamed so that they find each other; nothing for a shipped device."""
    from targets.device import device_names

    files: dict[str, bytes] = {}
    if device.name in device_names() and Path(device.file).name == device.file:
        return files
    path, name = Path(device.file), DEVICE_FILE
    while True:
        text = path.read_text(encoding="utf-8")
        base = re.search(r'^extends\s*=\s*"([^"]+\.toml)"', text, re.MULTILINE)
        following = f"device-{len(files) + 1}.toml"
        files[name] = (text if base is None else text.replace(base.group(1), following, 1)).encode()
        if base is None:
            return files
        path, name = path.parent / base.group(1), following


def _device(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Device:
    """The device by name, or from the file that travels with the artifact."""
    from targets.device import load_device

    if DEVICE_FILE not in files:
        return load_device(manifest["device"])
    with tempfile.TemporaryDirectory(prefix="embarq-") as folder:
        for name, content in files.items():
            if name.startswith("device") and name.endswith(".toml"):
                (Path(folder) / name).write_bytes(content)
        return load_device(Path(folder) / DEVICE_FILE)


def _check_lists(artifact: Artifact, path: Path) -> None:
    """The parts of a manifest that reading relies on, beyond its hashes."""
    golden = artifact.manifest.get("golden")
    steps = artifact.manifest.get("steps")
    cost = artifact.manifest.get("cost")
    if not isinstance(golden, dict) or not isinstance(steps, list) or not isinstance(cost, dict):
        raise UsageError(f"{path / MANIFEST} is damaged: it lacks its golden vectors, steps or cost; compile the artifact again")
    rows = golden.get("step_crc32")
    count = golden.get("vectors")
    if not isinstance(rows, list) or not isinstance(count, int) or len(rows) != count or not all(isinstance(r, list) and len(r) == len(steps) for r in rows):
        raise UsageError(f"{path / MANIFEST} is damaged: its golden vectors do not match its steps; compile the artifact again")
    for kind in ("inputs", "outputs"):
        artifact.tensors(kind)
    wanted = [f"golden/{v}_{k[:-1]}_{i}.npy" for v in range(count) for k in ("inputs", "outputs") for i in range(len(artifact.manifest[k]))]
    missing = [name for name in wanted if name not in artifact.files]
    if missing:
        raise UsageError(f"{path / MANIFEST} is damaged: {missing[0]} is not among its files; compile the artifact again")
