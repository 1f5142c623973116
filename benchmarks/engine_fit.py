"""From measured cases to the table of `sdk/planner/engines.json`: memory by non-negative least squares, time by a search for shares.

An error is always that of a model which the fit has not seen: each model is left out in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.planner.engine_cost import memory_parts
from sdk.planner.engine_work import NodeWork, Work

Case = Mapping[str, Any]
MIB = 1 << 20
#: Factor -> (the least it can be, what it is where no model says anything, how far from that costs `PULL` of an allowed error).
#: Weights and values at the peak are there at least once, whatever the few models that are measured would let one believe.
FACTORS = {
    "conv_weights": (1.0, 2.0, 1.0), "other_weights": (1.0, 2.0, 1.0), "node_bytes": (0.0, 2e3, 1e4), "activations": (1.0, 1.0, 1.0),
    "windows": (0.0, 0.5, 1.0),
}  # fmt: skip
KINDS = ("conv", "depthwise", "dense", "other")
#: Where the search for shares starts; `node_s` and `call_s` in seconds.
START = {"conv": 1.0, "depthwise": 0.2, "dense": 0.7, "bandwidth": 1.0, "node_s": 2e-6, "call_s": 1e-5}
PULL = 0.1  # and for a share: how much its log's distance from the start costs, beside that of predicted over measured time
#: Probes whose time is the rate itself.
PROBES = {"conv": "probe_conv", "dense": "probe_dense"}


def allowed_bytes(peak: int) -> float:
    """How far a prediction may be off: 10 % or 8 MiB, whichever is larger."""
    return max(0.1 * peak, 8 * MIB)


def peak_bytes(case: Case, entry: Mapping[str, Any]) -> int:
    """The measured peak, with as many pages of shared libraries as where the table was made: how many of them are resident is the page
    cache's business (28 to 43 MB in the same process), and no model changes it. A case that did not count them is taken as it is."""
    return int(case["peak_rss_bytes"] - case.get("library_bytes", entry["library_bytes"]) + entry["library_bytes"])


def work(case: Case) -> Work:
    """The work that a case recorded."""
    quantities = (case[f"{name}_bytes"] for name in ("conv_weights", "other_weights", "activations", "window"))
    return Work(*quantities, tuple(NodeWork(*row) for row in case["nodes"]))


# ---- memory ----


def fit_memory(cases: Sequence[Case]) -> dict[str, Any]:
    """The entry of one engine: the process itself is shared by all precisions, factors are each precision's own."""
    precisions = sorted({case["precision"] for case in cases})
    entry = {"version": cases[-1]["version"], "library_bytes": int(np.median([case["library_bytes"] for case in cases if "library_bytes" in case]))}
    rows = np.array([_columns(case, precisions) for case in cases])
    peaks = np.array([peak_bytes(case, entry) for case in cases], float)
    scale = 1 / np.array([allowed_bytes(peak_bytes(case, entry)) for case in cases])
    least = np.array([0.0, 0.0, *[bounds[0] for bounds in FACTORS.values()] * len(precisions)])
    pull, target = _pull(len(precisions))
    a, y = np.vstack([rows * scale[:, None], pull]), np.concatenate([peaks * scale, target])
    found = least + nonnegative(a, y - a @ least)
    own = found[2:].reshape(len(precisions), len(FACTORS))
    parts = {p: {name: float(f"{v:.4g}") for name, v in zip(FACTORS, row, strict=True)} for p, row in zip(precisions, own, strict=True)}
    return {**entry, "process_bytes": round(found[0]), "thread_bytes": round(found[1]), "precisions": parts}


def _columns(case: Case, precisions: Sequence[str]) -> list[float]:
    own = [case["conv_weights_bytes"], case["other_weights_bytes"], len(case["nodes"]), case["activations_bytes"], case["window_bytes"]]
    return [1.0, case["threads"] - 1, *(float(v) if p == case["precision"] else 0.0 for p in precisions for v in own)]


def _pull(precisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that hold every factor near its usual value, and what they should give."""
    _, usual, reach = np.array(list(FACTORS.values()) * precisions).T
    rows = np.hstack([np.zeros((len(usual), 2)), np.diag(PULL / reach)])
    return rows, PULL / reach * usual


def nonnegative(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x [n] >= 0 that minimises |a x - y|, a [m, n]: coordinate descent, which for this convex problem ends at the minimum."""
    size = np.maximum(np.linalg.norm(a, axis=0), 1e-30)
    a = a / size
    h, b = a.T @ a, a.T @ y
    x = np.zeros(len(b))
    for _ in range(20_000):
        before = x.copy()
        for j in range(len(x)):
            x[j] = max(0.0, x[j] + (b[j] - h[j] @ x) / max(h[j, j], 1e-12))
        if np.abs(x - before).max() <= 1e-9 * np.abs(x).max():
            break
    return np.asarray(x / size)


def predicted(case: Case, entry: Mapping[str, Any]) -> int:
    """Peak bytes of a case by an engine's entry."""
    return sum(memory_parts(work(case), entry, entry["precisions"][case["precision"]], case["threads"]))


def unseen_memory(cases: Sequence[Case]) -> list[tuple[Case, int]]:
    """Every case with its peak as predicted from all other models; cases whose precision no other model has are left out."""
    found = []
    for model in sorted({case["model"] for case in cases}):
        others = [case for case in cases if case["model"] != model]
        entry = fit_memory(others)
        found += [(c, predicted(c, entry)) for c in cases if c["model"] == model and c["precision"] in entry["precisions"]]
    return found


# ---- time ----


def rates(cases: Sequence[Case], copies: Mapping[str, float]) -> dict[int, tuple[float, float]]:
    """Threads -> (MACs a second of the probe, bytes copied a second); cases: one engine's at one precision."""
    from sdk.linux.probe import KIND_OF, MACS

    kind = KIND_OF[cases[0]["precision"]]
    times = {case["threads"]: case["min_ms"] / 1e3 for case in cases if case["model"] == PROBES[kind]}
    return {threads: (MACS[kind] / seconds, copies[str(threads)]) for threads, seconds in times.items() if str(threads) in copies}


@dataclass(frozen=True)
class Timed:
    """A case's nodes as arrays [n], its rates and its measured seconds: the search asks for its time thousands of times."""

    macs: np.ndarray
    moved: np.ndarray
    kinds: np.ndarray  # index into KINDS
    macs_s: float
    copy_bytes_s: float
    measured_s: float

    def seconds(self, shares: Mapping[str, float]) -> float:
        """What `roofline` gives."""
        reached = np.array([shares.get(kind, 1.0) for kind in KINDS])[self.kinds]
        each = np.maximum(self.macs / (self.macs_s * reached), self.moved / (2 * self.copy_bytes_s * shares["bandwidth"]))
        return float(shares["call_s"] + each.sum() + len(each) * shares["node_s"])

    def factor(self, shares: Mapping[str, float]) -> float:
        """How far off that is: 1.3 for 1.3 times and for 1/1.3 of the measured time."""
        return math.exp(abs(math.log(self.seconds(shares) / self.measured_s)))


def timed(case: Case, macs_s: float, copy_bytes_s: float) -> Timed:
    """The case, ready for the search."""
    nodes = work(case).nodes
    macs, moved = (np.array([getattr(node, name) for node in nodes], float) for name in ("macs", "moved_bytes"))
    return Timed(macs, moved, np.array([KINDS.index(node.kind) for node in nodes], int), macs_s, copy_bytes_s, case["min_ms"] / 1e3)


def fit_latency(cases: Sequence[Timed]) -> dict[str, float]:
    """Shares by coordinate search over their logs; what is minimised is the square of the log of predicted over measured time."""
    best, step = dict(START), math.log(2)
    lowest = _cost(cases, best)
    while step > 0.02:
        tries = [{**best, name: best[name] * factor} for name in START for factor in (math.exp(step), math.exp(-step))]
        costs = [_cost(cases, tried) for tried in tries]
        if min(costs) < lowest - 1e-6:
            best, lowest = tries[int(np.argmin(costs))], min(costs)
        else:
            step /= 2
    return best


def _cost(cases: Sequence[Timed], shares: Mapping[str, float]) -> float:
    off = (math.log(case.seconds(shares) / case.measured_s) ** 2 for case in cases)
    return sum(off) + sum((PULL * math.log(shares[name] / START[name])) ** 2 for name in START)


def unseen_factors(cases: Mapping[str, Sequence[Timed]], judged: Mapping[str, Sequence[Timed]]) -> list[float]:
    """How far off each judged case is, as told from the cases of other models; the probes, whose time is given, are not judged."""
    found = []
    for model in (name for name in judged if not name.startswith("probe_")):
        shares = fit_latency([case for other, own in cases.items() if other != model for case in own])
        found += [case.factor(shares) for case in judged[model]]
    return found


# ---- both ----


def fit(cases: Sequence[Case], copies: Mapping[str, float]) -> tuple[dict[str, Any], list[str]]:
    """(the table's engines and errors, lines that tell the errors)."""
    engines, lines = {}, []
    for name in dict.fromkeys(case["engine"] for case in cases):
        own = [case for case in cases if case["engine"] == name]
        entry = fit_memory(own)
        entry["models"] = len({case["model"] for case in own})
        lines += _memory_lines(name, own, entry)
        for precision in entry["precisions"]:
            same = [case for case in own if case["precision"] == precision]
            known = rates(same, copies)
            if 1 in known and len({case["model"] for case in same}) > 4:
                entry["precisions"][precision]["latency"], line = _latency(name, same, known)
                lines.append(line)
        engines[name] = entry
    return {"engines": engines}, lines


def _memory_lines(name: str, cases: Sequence[Case], entry: dict[str, Any]) -> list[str]:
    lines = []
    for what, pairs in (("seen", [(c, predicted(c, entry)) for c in cases]), ("unseen", unseen_memory(cases))):
        off = [abs(found - peak_bytes(case, entry)) / allowed_bytes(peak_bytes(case, entry)) for case, found in pairs]
        worst = pairs[int(np.argmax(off))]
        label = f"{worst[0]['model']}/{worst[0]['precision']}/{worst[0]['threads']}t"
        lines.append(
            f"{name} memory, {what} models: {sum(o <= 1 for o in off)} of {len(off)} within 10 % or 8 MiB; "
            f"worst {max(off):.2f} of that ({label}: {worst[1] / MIB:.1f} for {peak_bytes(worst[0], entry) / MIB:.1f} MiB)"
        )
        entry[f"{what}_within"] = [sum(o <= 1 for o in off), len(off)]
    return lines


def _latency(name: str, cases: Sequence[Case], known: Mapping[int, tuple[float, float]]) -> tuple[dict[str, float], str]:
    """Shares are fitted to single threads alone: where all cores are used, whatever else runs is in the way of some cases and not of others."""
    single, several = (_by_model(cases, {n: rate for n, rate in known.items() if (n == 1) == one}) for one in (True, False))
    errors = {"error": unseen_factors(single, single), "threads_error": unseen_factors(single, several)}
    told = {key: round(float(np.quantile(found, 0.9, method="higher")), 2) for key, found in errors.items() if found}
    shares = {key: float(f"{value:.4g}") for key, value in fit_latency([case for own in single.values() for case in own]).items()}
    lines = (f"nine of ten within x{told[key]:.2f} of {len(found)} ({key}, median x{np.median(found):.2f})" for key, found in errors.items() if found)
    return {**shares, **told}, f"{name} {cases[0]['precision']} time, unseen models: {', '.join(lines)}"


def _by_model(cases: Sequence[Case], known: Mapping[int, tuple[float, float]]) -> dict[str, list[Timed]]:
    found: dict[str, list[Timed]] = {}
    for case in (case for case in cases if case["threads"] in known):
        found.setdefault(case["model"], []).append(timed(case, *known[case["threads"]]))
    return found
