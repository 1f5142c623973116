"""`embarq-run COMMAND FOLDER`: serve, verify, bench, profile or info, started over SSH or by hand."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import bundle as bundles
from .engines import NAMES, set_threads
from .errors import EngineMissing, MachineRefused, RunnerError

COMMANDS = {
    "serve": "answer JSON-RPC on stdin and stdout",
    "accepts": "say whether this machine can run what the folder's manifest describes; the other files need not be there",
    "verify": "run the golden vectors and compare",
    "bench": "time whole inferences and tell the peak memory",
    "profile": "time each operation, where the engine tells",
    "info": "say what the artifact, the engine and this machine are",
}
#: Of a folder with versions side by side (see slot.py); all print JSON.
SLOT_COMMANDS = {
    "activate": "make a version the current one; keep the one before, remove all others",
    "rollback": "make the version before the current one again",
    "discard": "remove a version that was only tried; one in use stays",
    "reject": "remove a version that failed, going back when it was the current one",
}
CALIBRATE = "tell how fast this machine copies memory and multiplies matrices; needs numpy only"
VERIFICATION_FAILED = 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="embarq-run", description="Runs an embarq artifact on this machine: needs numpy and the artifact's engine.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", help="the artifact's folder")
        command.add_argument("--engine", choices=NAMES, help="another engine that opens the same file, e.g. tflite-runtime")
        command.add_argument("--json", action="store_true", help="print one line of JSON")
        if name == "bench":
            command.add_argument("--warmup", type=int, default=3)
        if name in ("bench", "profile"):
            command.add_argument("--repeats", type=int, default=20)
    command = commands.add_parser("calibrate", help=CALIBRATE, description=CALIBRATE)
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    command.add_argument("--seconds", type=float, default=2.0, help="for each figure (default 2)")
    for name, text in SLOT_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", help="the folder that holds current and versions/")
        if name != "rollback":
            command.add_argument("version", help="16 hex digits")
    return top


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 ok, 1 a defect, 2 usage, 5 verification failed, 6 machine or engine, 8 version."""
    options = parser().parse_args(argv)
    try:
        return _dispatch(options)
    except RunnerError as error:
        sys.stderr.write(f"embarq-run: {error}\n")
        return error.exit_code
    except MemoryError:
        sys.stderr.write("embarq-run: this machine ran out of memory; close other programs or compile for fewer bytes\n")
        return EngineMissing.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "accepts":
        bundles.check_accepts(bundles.read_manifest(Path(options.folder)), options.engine)
        return 0
    if options.command == "calibrate":
        return _calibrate(options.json, options.seconds)
    if options.command in SLOT_COMMANDS:
        sys.stdout.write(json.dumps(_slot(options)) + "\n")
        return 0
    bundle = bundles.open_bundle(options.folder, options.engine)
    set_threads(bundle.threads)  # before numpy and the engine are imported: they read it once
    from . import serve

    if options.command == "serve":
        serve.serve_streams(bundle, *serve.protocol_streams())
        return 0
    # an engine may print to stdout; what is asked for must be its only line
    _, sink = serve.protocol_streams()
    served = serve.Served(bundle)
    result = served.methods()[options.command]({"warmup": getattr(options, "warmup", 0), "repeats": getattr(options, "repeats", 1)})
    text = json.dumps(result, allow_nan=False, default=str) if options.json else "\n".join(TEXTS[options.command](result))
    sink.write(text.encode() + b"\n")
    sink.close()
    return VERIFICATION_FAILED if options.command == "verify" and not result["ok"] else 0


def _calibrate(as_json: bool, seconds: float) -> int:
    set_threads(1)  # the threads are our own, each with a matrix product of its own
    from . import rates

    found = rates.calibrate(seconds)
    rows = [f"{row['name']:<20} {row.get('bytes_s', row.get('macs_s')):>18,} {'bytes' if 'bytes_s' in row else 'MAC'}/s" for row in found["rates"]]
    sys.stdout.write((json.dumps(found) if as_json else "\n".join([f"{found['processor']}, {found['cores']} cores", *rows])) + "\n")
    return 0


def _slot(options: argparse.Namespace) -> dict[str, Any]:
    from . import slot

    folder = Path(options.folder)
    try:
        if options.command == "rollback":
            return dict(slot.roll_back(folder))
        change = {"activate": slot.activate, "discard": slot.discard, "reject": slot.reject}[options.command]
        return dict(change(folder, options.version))
    except OSError as error:
        raise MachineRefused(f"{folder} cannot be switched ({error.strerror or error}); check its permissions and the free space") from error


def _verify_text(result: dict[str, Any]) -> list[str]:
    if not result["ok"]:
        return [f"DIFFERENT: {result['first_difference']}"]
    found = f"largest relative difference {result['largest_difference']:.1e}, allowed {result['tolerance']:.0e}"
    return [f"proved: {result['vectors']} vectors, {result['bytes_compared']:,} output bytes, {found}; {_peak(result)}"]


def _bench_text(result: dict[str, Any]) -> list[str]:
    times = ", ".join(f"{name[:-3]} {result[name]:.3f} ms" for name in ("median_ms", "min_ms", "p90_ms"))
    return [f"{result['engine']} {result['engine_version']}, {result['threads']} threads, {len(result['ms'])} runs: {times}; {_peak(result)}"]


def _profile_text(result: dict[str, Any]) -> list[str]:
    if result["layers"] is None:
        return [f"one inference: {result['median_ms']:.3f} ms", result["note"]]
    rows = [f"{row['ms']:10.4f} ms  {row['op']:<24} {row['name']}" for row in result["layers"]]
    return [*rows, f"{sum(row['ms'] for row in result['layers']):10.4f} ms  in kernels; one inference without profiling: {result['median_ms']:.3f} ms"]


def _info_text(result: dict[str, Any]) -> list[str]:
    return [f"{key:<22} {value}" for key, value in result.items() if not isinstance(value, (list, dict))]


def _peak(result: dict[str, Any]) -> str:
    peak = result.get("peak_rss_bytes")
    return f"peak memory {peak / 2**20:.1f} MiB" if peak else "peak memory unknown"


TEXTS = {"verify": _verify_text, "bench": _bench_text, "profile": _profile_text, "info": _info_text}

if __name__ == "__main__":
    sys.exit(main())
