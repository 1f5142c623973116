"""The Linux benchmark's own arithmetic: turns, ratios, and the rows that others read."""

from __future__ import annotations

import pytest

from benchmarks import linux
from benchmarks.linux import Contender, race, rows_of
from sdk.planner.linux_records import PeakMemory


def contender(name: str, times: list[float], fails_at: int = 10**9) -> Contender:
    left = iter(times * linux.ROUNDS * 3)
    calls = iter(range(10**6))

    def bench(warmup: int, repeats: int) -> tuple[list[float], int]:
        if next(calls) >= fails_at:
            raise RuntimeError(f"{name} ended with 1")
        return [next(left)] * repeats, 7 << 20

    return Contender(name, bench)


def test_everyone_runs_in_turns_and_the_cold_round_does_not_count() -> None:
    ours = contender("embarq", [0.1, *[5.0] * 30])
    race([ours])
    assert len(ours.rounds) == linux.ROUNDS + 1 and ours.latency_ms == 5.0


def test_a_peer_that_fails_is_left_out_and_ours_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    racers = [contender("embarq", [1.0]), contender("onnx", [2.0], fails_at=2), contender("litert", [3.0])]
    race(racers)
    assert [c.name for c in racers] == ["embarq", "litert"] and "onnx ended" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="embarq ended"):
        race([contender("embarq", [1.0], fails_at=1)])


def test_those_close_to_the_fastest_run_twice_as_many_rounds() -> None:
    racers = [contender("embarq", [1.05]), contender("onnx", [1.0]), contender("litert", [3.0])]
    race(racers)
    assert [len(c.rounds) for c in racers] == [2 * linux.ROUNDS + 1, 2 * linux.ROUNDS + 1, linux.ROUNDS + 1]


def test_rows_have_the_metrics_of_the_contract() -> None:
    racers = [contender("embarq", [2.0]), contender("onnx", [4.0]), contender("litert", [1.6])]
    race(racers)
    chosen = {"recipe": "onnx/int8/1t", "file_bytes": 10, "drop_points": 0.25}
    rows = {r.metric: r for r in rows_of("mcunet_like/int8/1t", racers, chosen, 9 << 20, PeakMemory(1, 2, 3, ""))}
    assert set(rows) == {"ratio_to_best_peer", "latency_ms", "file_bytes", "peak_rss_bytes", "predicted_peak_bytes", "accuracy_drop_points"}
    assert rows["ratio_to_best_peer"].value == pytest.approx(1.25) and rows["latency_ms"].peers == {"onnx": 4.0, "litert": 1.6}
    assert rows["predicted_peak_bytes"].value == 6 and rows["accuracy_drop_points"].value == 0.25
    untrained = {r.metric for r in rows_of("resnet18/int8/1t", racers, chosen, None, None)}
    assert untrained == {"ratio_to_best_peer", "latency_ms", "file_bytes"}
