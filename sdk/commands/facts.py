"""`embarq devices`, `ops` and `inspect`: what there is, before anything is decided."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdk.commands.common import Batch, Debug, InputLayout, Json, Printer, Quiet, Seed, megahertz, size, table

if TYPE_CHECKING:
    from sdk.artifact import Artifact
    from sdk.model import Model
    from targets.device import Device


def devices(
    name: Annotated[str | None, typer.Argument(metavar="DEVICE", help="A device's name or a device file; left out: all devices.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """List the devices, or tell all that is known of one, each number with its source.

    \b
    [dim]Examples:[/dim]
      embarq devices
      embarq devices stm32f405
      embarq devices ./myboard.toml
    """
    from targets.device import device_names, load_device

    out = Printer(as_json, quiet)
    if name is None:
        found = [load_device(n) for n in device_names()]
        out.show([device_row(d) for d in found], *_devices_page(found))
    else:
        device = load_device(name)
        out.show(device_dict(device), *_device_page(device))


def device_row(device: Device) -> dict[str, Any]:
    """One device as the list shows it; bytes are the usable ones, None where the device has no such memory."""
    mcu = device.kind == "mcu"
    return {
        "name": device.name,
        "title": device.title,
        "kind": device.kind,
        "cores": [
            {"name": c.name, "arch": c.arch, "isa": list(c.isa), "count": c.count, "clock_hz": c.clock_hz or None} for c in device.cores
        ],
        "flash_bytes": device.flash.usable_bytes if mcu else None,
        "ram_bytes": sum(m.usable_bytes for m in (device.arena_regions() if mcu else device.memories)),
        "backends": list(device.backends),
        "emulated": device.emulator is not None,
    }


def device_dict(device: Device) -> dict[str, Any]:
    """Everything known of one device."""
    facts = {path: {"value": f.value, "source": f.source, "confirmed": f.confirmed} for path, f in device.facts.items()}
    return {**device_row(device), "vendor": device.vendor, "aliases": list(device.aliases), "facts": facts, "sources": dict(device.sources)}


def _core_text(device: Device) -> str:
    core = device.core
    return f"{core.count}x {core.name}" if core.count > 1 else core.name


def _devices_page(found: list[Device]) -> list[Any]:
    """Boards and computers have little in common: a table each."""
    boards, computers = ([d for d in found if (d.kind == "mcu") == bare] for bare in (True, False))
    board_rows = [
        (d.name, _core_text(d), megahertz(d.core.clock_hz), size(d.flash.usable_bytes), size(device_row(d)["ram_bytes"]), _emulators(d))
        for d in boards
    ]
    computer_rows = [
        (d.name, _core_text(d), megahertz(d.core.clock_hz), size(device_row(d)["ram_bytes"]), ", ".join(d.backends)) for d in computers
    ]
    numbers = ("clock", "flash", "RAM")
    return [
        table("Microcontrollers", ("device", "core", "clock", "flash", "RAM", "emulated by"), board_rows, right=numbers),
        table("Computers", ("device", "core", "clock", "RAM", "backends"), computer_rows, right=("clock", "RAM")),
        "One of them in full, with the source of every number: embarq devices stm32f405",
    ]


def _emulators(device: Device) -> str:
    emulator = device.emulator
    return "" if emulator is None else "unicorn" + (f", QEMU {emulator.qemu_machine}" if emulator.qemu_machine else "")


def _device_page(device: Device) -> list[Any]:
    about = ", ".join(text for text in (device.vendor, device.kind, _core_text(device), " ".join(sorted(device.isa))) if text)
    also = f"   also called {', '.join(device.aliases)}" if device.aliases else ""
    bare = device.kind == "mcu"  # addresses mean nothing under an operating system
    memories = [
        (m.name, m.kind, f"{m.start:#010x}" if bare else "", size(m.size_bytes), size(m.reserved_bytes or None), ", ".join(m.roles))
        for m in device.memories
    ]
    facts = [
        (path, _fact_text(path, fact.value), fact.source if fact.confirmed else f"{fact.source}  (not confirmed: never used)")
        for path, fact in device.facts.items()
    ]
    used = {key.strip() for fact in device.facts.values() for key in fact.source.split(",")}
    return [
        f"{device.name}: {device.title or device.name}{also}",
        about,
        "",
        table("Memories", ("name", "kind", "start", "size", "reserved", "holds"), memories, right=("start", "size", "reserved")),
        table("Numbers and where they come from", ("number", "value", "source"), facts, right=("value",)),
        table("Sources", ("key", "what"), [(key, what) for key, what in device.sources.items() if key in used]),
        f"What a model may use here: embarq plan {device.name}",
    ]


def _fact_text(path: str, value: Any) -> str:
    if path.endswith((".start", ".base")):
        return f"{value:#010x}"
    if isinstance(value, (list, tuple)):
        return " ".join("x".join(map(str, pair)) if isinstance(pair, (list, tuple)) else str(pair) for pair in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def ops(
    name: Annotated[str | None, typer.Argument(metavar="OP", help="One op, told in full; all of them when left out.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """List the ops a model may use: data types, constraints, and the instruction sets that have a kernel of their own.

    \b
    [dim]Examples:[/dim]
      embarq ops
      embarq ops conv2d
      embarq ops --json | jq '.[].name'
    """
    from sdk.errors import UsageError
    from sdk.graph.ops import OPS

    rows = [op_row(key, OPS[key]) for key in OPS]
    if name is not None:
        rows = [row for row in rows if row["name"] == name]
        if not rows:
            import difflib

            close = difflib.get_close_matches(name, OPS, n=2)
            raise UsageError(f"there is no op {name!r}; {'did you mean ' + ' or '.join(close) + '?' if close else 'see: embarq ops'}")
    out = Printer(as_json, quiet)
    out.show(rows if name is None else rows[0], *(_ops_page(rows) if name is None else _op_page(rows[0])))


def op_row(name: str, op: Any) -> dict[str, Any]:
    """One op, made from the op itself and from the kernel table; no kernels means that firmware cannot run it."""
    from sdk.kernels.table import TABLE

    return {
        "name": name,
        "doc": _words(op.doc),
        "inputs": list(op.inputs),
        "attrs": dict(op.attrs),
        "dtypes": list(op.dtypes),
        "constraints": [_words(constraint.__doc__) for constraint in op.constraints],
        "kernels": [
            {"function": row.function, "dtypes": list(row.dtypes), "isa": sorted(row.isa), "why": row.why}
            for row in TABLE
            if row.op == name
        ],
    }


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


def _ops_page(rows: list[dict[str, Any]]) -> list[Any]:
    """The ops and, since many share them, their constraints as numbered notes below."""
    notes = list(dict.fromkeys(text for row in rows for text in row["constraints"]))
    cells = [
        (row["name"], ", ".join(row["dtypes"]), _firmware(row), " ".join(str(notes.index(text) + 1) for text in row["constraints"]))
        for row in rows
    ]
    return [
        table(f"{len(rows)} ops", ("op", "dtypes", "in firmware", "notes"), cells),
        *(f"{i:3}  {text}" for i, text in enumerate(notes, 1)),
        "\nOne op in full: embarq ops conv2d",
    ]


def _firmware(row: dict[str, Any]) -> str:
    """The data types that some C kernel computes, and the instruction sets that have one of their own: "int8 (any core, dsp)"."""
    if row["name"] == "reshape":
        return "needs no code"
    found: dict[str, list[str]] = {}
    for kernel in row["kernels"]:
        for dtype in kernel["dtypes"]:
            cores = found.setdefault(dtype, [])
            cores += [core for core in [" ".join(kernel["isa"]) or "any core"] if core not in cores]
    return ", ".join(f"{dtype} ({', '.join(sorted(cores))})" for dtype, cores in found.items())


def _op_page(row: dict[str, Any]) -> list[Any]:
    kernels = [f"{k['function']} on {', '.join(k['dtypes'])}, {' '.join(k['isa']) or 'any core'}: {k['why']}" for k in row["kernels"]]
    parts = {
        "dtypes": [", ".join(row["dtypes"])],
        "attributes": [f"{name}: {_words(text)}" for name, text in row["attrs"].items()],
        "constraints": row["constraints"],
        "in firmware": kernels or ["needs no code" if row["name"] == "reshape" else "no kernel"],
    }
    lines = [f"{row['name']}({', '.join(row['inputs'])})", f"  {row['doc']}"]
    for what, texts in parts.items():
        lines += [f"  {what if i == 0 else '':12} {text}" for i, text in enumerate(texts)]
    return ["\n".join(lines)]


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .tflite, .onnx or .pt2 file, or an artifact's folder.")],
    text: Annotated[bool, typer.Option("--text", help="Print the whole graph, one line a node.")] = False,
    input_layout: InputLayout = None,
    batch: Batch = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Tell what a model (or an artifact) is: inputs, outputs, ops, weights.

    \b
    [dim]Examples:[/dim]
      embarq inspect kws.tflite
      embarq inspect kws.tflite --text
      embarq inspect out/
    """
    import sdk

    out = Printer(as_json, quiet)
    if Path(model).is_dir():
        artifact = sdk.open(model)
        out.show(dict(artifact.manifest), *_artifact_page(artifact))
        return
    loaded = sdk.load(model, input_layout=input_layout, batch=batch)
    if text:
        from sdk.graph.text import to_text

        written = to_text(loaded.graph)
        out.show({**model_dict(loaded), "text": written}, written)
    else:
        out.show(model_dict(loaded), *_model_page(loaded))


def model_dict(model: Model) -> dict[str, Any]:
    """What `inspect` tells of a model. Weights are counted once, however many nodes read them."""
    graph = model.graph
    constants = list(graph.constants())

    def one(name: str) -> dict[str, Any]:
        tensor = graph[name]
        quant = {"scale": list(tensor.quant.scale), "zero_point": list(tensor.quant.zero_point)} if tensor.quant else None
        return {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype, "quant": quant}

    return {
        "name": model.name,
        "kind": model.kind,
        "inputs": [one(name) for name in graph.inputs],
        "outputs": [one(name) for name in graph.outputs],
        "nodes": len(graph.nodes),
        "ops": dict(Counter(node.op for node in graph.nodes).most_common()),
        "opaque": [str(node.attrs.get("kind", node.name)) for node in graph.nodes if node.op == "opaque"],
        "weights": sum(t.size for t in constants),
        "weight_bytes": sum(t.size_bytes for t in constants),
        "largest_activation_bytes": max((t.size_bytes for t in graph.activations()), default=0),
    }


def _model_page(model: Model) -> list[Any]:
    data = model_dict(model)
    ends = [
        (side[:-1], t["name"], "x".join(map(str, t["shape"])), t["dtype"], _quant_text(t["quant"]))
        for side in ("inputs", "outputs")
        for t in data[side]
    ]
    lines = [
        f"{data['name']}: {data['kind']}, {data['nodes']} nodes, {data['weights']:,} weights in {size(data['weight_bytes'])}, "
        f"largest activation {size(data['largest_activation_bytes'])}",
        "ops: " + ", ".join(f"{count} {op}" for op, count in data["ops"].items()),
    ]
    if data["opaque"]:
        lines.append(f"not known to the graph (can be planned, not compiled to firmware): {', '.join(sorted(set(data['opaque'])))}")
    return [*lines, table(None, ("", "name", "shape", "dtype", "quantisation"), ends)]


def _quant_text(quant: dict[str, Any] | None) -> str:
    if quant is None:
        return ""
    if len(quant["scale"]) > 1:
        return f"{len(quant['scale'])} channels"
    return f"{quant['scale'][0]:.6g} * (q - {quant['zero_point'][0]})"


def _artifact_page(artifact: Artifact) -> list[Any]:
    manifest = artifact.manifest
    files = [(name, f"{entry['bytes']:,}", entry["sha256"][:16]) for name, entry in manifest["files"].items()]
    head = f"{manifest['name']} for {manifest['device']}, backend {manifest['backend']}, format {manifest['version']}; every hash agrees"
    return [head, table(None, ("file", "bytes", "sha256"), files, right=("bytes",))]

