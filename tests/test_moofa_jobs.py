"""Many jobs at once: the same results in one process, several, or on a Dask cluster; whatever is stopped goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdk.errors import DataError, LinkError, ToolError, UsageError
from sdk.prepare.moofa import jobs as jobs_module
from sdk.prepare.moofa.jobs import Cache, Job, content_key, in_words, run

ROOT = Path(__file__).resolve().parent.parent
needs_dask = pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason='needs distributed (pip install "embarq[dask]")')


def square(common: dict, argument: int) -> dict:
    """Notes that it ran, then computes."""
    with Path(common["log"]).open("a") as log:
        log.write(f"{argument} {os.getpid()}\n")
    time.sleep(common.get("wait_s", 0))
    if argument == common.get("bad"):
        raise DataError(f"job {argument} has no data")
    if argument == common.get("dies"):
        os._exit(3)
    return {"square": argument**2}


def ran(log: Path) -> list[int]:
    """Arguments of the jobs that were begun, in order."""
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def listed(count: int) -> list[Job]:
    return [Job(content_key("square", i), i) for i in range(count)]


def squares(count: int) -> list[dict]:
    return [{"square": i**2} for i in range(count)]


def test_results_come_in_the_order_of_the_jobs_and_progress_counts(tmp_path):
    told = []
    results = run(square, {"log": tmp_path / "log"}, listed(5), report=told.append)
    assert results == squares(5)
    assert [(p.done, p.total, p.found) for p in told] == [(i, 5, 0) for i in range(1, 6)]
    assert told[-1].seconds_left == 0 and str(told[-1]) == "5 of 5"
    assert str(told[1]).startswith("2 of 5, ") and str(told[1]).endswith(" left")


def test_several_processes_give_the_same(tmp_path):
    log = tmp_path / "log"
    assert run(square, {"log": log}, listed(6), workers=2) == squares(6)
    assert sorted(ran(log)) == list(range(6))
    assert str(os.getpid()) not in log.read_text()


def test_what_was_done_is_not_done_again_and_what_is_damaged_is(tmp_path):
    log, cache = tmp_path / "log", tmp_path / "cache"
    run(square, {"log": log}, listed(3), cache=cache)
    (cache / f"{content_key('square', 1)}.json").write_text('{"key": "')
    (cache / f"{content_key('square', 2)}.json").write_text(json.dumps({"key": "of another", "result": 7}))
    told = []
    assert run(square, {"log": log}, listed(4), cache=cache, report=told.append) == squares(4)
    assert ran(log) == [0, 1, 2, 1, 2, 3]
    assert str(told[-1]) == "4 of 4 (1 known before)"
    assert run(square, {"log": log}, listed(4), cache=cache, workers=2) == squares(4)
    assert len(ran(log)) == 6
    assert not list(cache.glob(".*")), "nothing is left aside"


def test_equal_jobs_are_done_once(tmp_path):
    assert run(square, {"log": tmp_path / "log"}, [*listed(2), *listed(2)]) == [*squares(2), *squares(2)]
    assert ran(tmp_path / "log") == [0, 1]


def test_a_key_tells_contents_apart():
    keys = {content_key(*parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], ["ab", "c"], [1, 2], [12], [{"a": 1, "b": 2}], [{"a": 1, "b": 3}])}
    assert len(keys) == 7
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_ends_the_run_with_its_own_sentence_and_keeps_the_others(tmp_path, workers):
    log, cache = tmp_path / "log", tmp_path / "cache"
    with pytest.raises(DataError, match="job 1 has no data"):
        run(square, {"log": log, "bad": 1, "wait_s": 0.1}, listed(4), workers=workers, cache=cache)
    kept = {path.stem for path in cache.glob("*.json")}
    assert content_key("square", 0) in kept and content_key("square", 1) not in kept
    again = len(ran(log))
    assert run(square, {"log": log}, listed(4), cache=cache) == squares(4)
    assert len(ran(log)) - again == 4 - len(kept)


def test_a_worker_that_dies_is_a_sentence_and_the_rest_is_kept(tmp_path):
    log, cache = tmp_path / "log", tmp_path / "cache"
    with pytest.raises(UsageError, match=r"a worker process ended before its job did.*give fewer workers: 1 of 3 were done and are kept in .*run it again"):
        run(square, {"log": log, "dies": 2, "wait_s": 0.5}, listed(3)[::2] + listed(2)[1:], workers=2, cache=cache)
    assert run(square, {"log": log}, listed(3), cache=cache) == squares(3)
    assert ran(log).count(0) == 1


SCRIPT = """
import sys
from tests.test_moofa_jobs import listed, square
from sdk.prepare.moofa.jobs import run

if __name__ == "__main__":
    print(run(square, {"log": sys.argv[1], "wait_s": 0.3}, listed(12), workers=int(sys.argv[3]), cache=sys.argv[2], report=lambda p: print(p, flush=True)))
"""


def started(tmp_path: Path, workers: int) -> subprocess.Popen[str]:
    """A run of twelve jobs in a process of its own, three of them done."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "log"), str(tmp_path / "cache"), str(workers)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    return process


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_in_the_middle_goes_on_and_leaves_no_worker_behind(tmp_path, workers):
    log, cache = tmp_path / "log", tmp_path / "cache"
    process = started(tmp_path, workers)
    process.kill()
    process.communicate()
    kept = len(list(cache.glob("*.json")))
    assert 3 <= kept < 12
    pids = {int(line.split()[1]) for line in log.read_text().splitlines()}
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
    before = len(ran(log))
    assert run(square, {"log": log}, listed(12), cache=cache) == squares(12)
    assert len(ran(log)) - before == 12 - kept


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_is_done_and_in_processes_what_is_running(tmp_path, workers):
    log, cache = tmp_path / "log", tmp_path / "cache"
    process = started(tmp_path, workers)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None) and "KeyboardInterrupt" in errors
    kept, begun = len(list(cache.glob("*.json"))), len(ran(log))
    assert 3 <= kept < 12
    assert begun - kept <= (1 if workers == 1 else 0), "jobs in other processes are finished; the one in this process is not"


def test_folders_that_cannot_be_written_and_impossible_workers_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"results cannot be kept in .*file/cache"):
        run(square, {}, listed(2), cache=tmp_path / "file" / "cache")
    with pytest.raises(UsageError, match="0 workers cannot do anything"):
        run(square, {}, listed(2), workers=0)


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    cache = Cache(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs_module.os, "replace", full)
    with pytest.raises(UsageError, match=r"a result cannot be kept in .* \(No space left on device\); free space"):
        cache.put("key", {})
    assert not list(tmp_path.iterdir())


def test_times_are_said_in_words():
    assert [in_words(s) for s in (40, 700, 12_000)] == ["40 s", "12 min", "3 h 20 min"]


CLUSTER = """
import sys, time
from distributed import LocalCluster

if __name__ == "__main__":
    workers = int(sys.argv[1])
    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp", host="127.0.0.1")
    print(cluster.scheduler_address, flush=True)
    time.sleep(600)
"""


def cluster(tmp_path: Path, workers: int) -> tuple[subprocess.Popen[str], str]:
    """A Dask cluster in a process of its own, and its scheduler's address."""
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script), str(workers)], env=path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.fixture
def two_workers(tmp_path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    made = cluster(tmp_path, 2)
    yield made
    made[0].kill()
    made[0].communicate()


@needs_dask
def test_a_dask_cluster_gives_the_same_then_dies_and_the_run_goes_on_without_it(tmp_path, two_workers):
    log, cache, (process, address) = tmp_path / "log", tmp_path / "cache", two_workers
    assert run(square, {"log": log}, listed(4), dask=address, cache=cache) == squares(4)
    assert str(os.getpid()) not in log.read_text()
    with pytest.raises(DataError, match="job 1 has no data"):
        run(square, {"log": log, "bad": 1}, listed(2), dask=address)
    with pytest.raises(LinkError, match=rf"the Dask scheduler at {address} .* of 12 were done and are kept in .*run it again"):
        run(square, {"log": log, "wait_s": 0.3}, listed(12), dask=address, cache=cache, report=lambda p: p.done == 6 and process.kill())
    kept, before = len(list(cache.glob("*.json"))), len(ran(log))
    assert 6 <= kept < 12
    assert run(square, {"log": log}, listed(12), cache=cache) == squares(12)
    assert len(ran(log)) - before == 12 - kept


@needs_dask
def test_no_scheduler_and_no_workers_are_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "ANSWER_S", 1)
    with pytest.raises(LinkError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1; start one with `dask scheduler`"):
        run(square, {}, listed(2), dask="tcp://127.0.0.1:1")
    with pytest.raises(LinkError, match="no Dask scheduler answers at nonsense"):
        run(square, {}, listed(2), dask="nonsense://1")
    process, address = cluster(tmp_path, 0)
    with pytest.raises(LinkError, match=f"the Dask scheduler at {address} has no workers; start some with `dask worker {address}`"):
        run(square, {}, listed(2), dask=address)
    process.kill()
    process.communicate()


def test_without_distributed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ToolError, match=r"needs distributed; pip install \"embarq\[dask\]\""):
        run(square, {}, listed(2), dask="tcp://127.0.0.1:8786")
