"""Many jobs at once: in this process, in several, or on a Dask cluster, with the same code; what is done is kept, and never done twice.

Each result is a file named by the job's content, written aside and renamed. So a run that was killed goes on where it stopped, and what
one run measured another one reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import LinkError, ToolError, UsageError

#: (what all jobs share, one job's argument) -> something that JSON can hold. A function of a module, so that other processes find it.
Work = Callable[[Any, Any], Any]
Keep = Callable[[int, Any], None]
#: Seconds in which a Dask scheduler has to answer, and to have a worker.
ANSWER_S = 10
_DIED = "a worker process ended before its job did, most often for want of memory"


@dataclass(frozen=True)
class Job:
    """One job. key: of all its result depends on (`content_key`); equal keys are the same job."""

    key: str
    argument: Any


@dataclass(frozen=True)
class Progress:
    """Where a run stands. found: of `done`, those that an earlier run had done."""

    done: int
    total: int
    found: int
    seconds_left: float  #: by the jobs done so far; nan before the first

    def __str__(self) -> str:
        left = "" if self.seconds_left != self.seconds_left or self.done == self.total else f", {in_words(self.seconds_left)} left"
        return f"{self.done} of {self.total}{f' ({self.found} known before)' if self.found else ''}{left}"


Report = Callable[[Progress], None]


def in_words(seconds: float) -> str:
    """"40 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def content_key(*parts: bytes | str | int | float | Mapping[str, Any] | Sequence[Any]) -> str:
    """A name made of contents: the same for equal parts in the same order, 40 hexadecimal digits."""
    made = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        made.update(b"%d:" % len(content) + content)
    return made.hexdigest()[:40]


class Cache:
    """Results by key in a folder, each a small JSON file. Raises UsageError where the folder cannot be written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"results cannot be kept in {folder} ({error.strerror}); name a folder that can be written") from error

    def get(self, key: str) -> Any:
        """The result; None where there is none, and for a file that is damaged, which is as good."""
        try:
            record = json.loads((self.folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return record.get("result") if isinstance(record, dict) and record.get("key") == key else None

    def put(self, key: str, result: Any) -> None:
        """Keep it. Raises UsageError where that fails: a full disk, a folder that went away."""
        try:
            write_whole(self.folder / f"{key}.json", json.dumps({"key": key, "result": result}))
        except OSError as error:
            raise UsageError(f"a result cannot be kept in {self.folder} ({error.strerror}); free space or name another folder, then run again") from error


def write_whole(path: Path, text: str) -> None:
    """Written aside and renamed: whenever the run ends, the file is whole, or as it was before."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def run(
    work: Work, common: Any, jobs: Sequence[Job], *, workers: int = 1, dask: str | None = None, cache: str | Path | None = None, report: Report | None = None
) -> list[Any]:
    """`work(common, job.argument)` of every job, in the order of `jobs`.

    common: what all jobs share; it is sent once to each process. workers: processes of this computer, 1 for this very process. dask: a scheduler's
    address instead ("tcp://host:8786"), whose workers need this package too. cache: a folder for results. report: told after each job.
    On Ctrl-C the jobs that are running on this computer are finished and kept. Like all of `multiprocessing`, more than one worker needs a script that
    begins its work under `if __name__ == "__main__":`.
    Raises UsageError where a worker process dies, LinkError where no scheduler answers or it goes away, ToolError where `distributed` is
    not installed, and what `work` raises; what was done by then is in the cache.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers cannot do anything; give 1 or more")
    kept = None if cache is None else Cache(cache)
    tally = _Tally(jobs, kept, report)
    if todo := tally.todo():
        if dask is not None:
            _on_dask(work, common, todo, dask, tally)
        elif workers > 1 and len(todo) > 1:
            _in_processes(work, common, todo, min(workers, len(todo)), tally)
        else:
            for job in todo:
                tally.keep(job.key, work(common, job.argument))
    return [tally.results[job.key] for job in jobs]


class _Tally:
    """Results so far, kept as they come in."""

    def __init__(self, jobs: Sequence[Job], cache: Cache | None, report: Report | None) -> None:
        self.jobs, self.cache, self.report = {job.key: job for job in jobs}, cache, report
        self.results = {key: result for key in self.jobs if cache and (result := cache.get(key)) is not None}
        self.found, self.begin = len(self.results), time.monotonic()

    def todo(self) -> list[Job]:
        return [job for key, job in self.jobs.items() if key not in self.results]

    def keep(self, key: str, result: Any) -> None:
        self.results[key] = result
        if self.cache:
            self.cache.put(key, result)
        if self.report:
            done, total = len(self.results), len(self.jobs)
            self.report(Progress(done, total, self.found, (time.monotonic() - self.begin) / (done - self.found) * (total - done)))

    def stands(self) -> str:
        """For the end of a sentence about a run that failed."""
        done = f"{len(self.results)} of {len(self.jobs)} were done"
        return f"{done} and are kept in {self.cache.folder}, so run it again" if self.cache else f"{done}; with cache=FOLDER they would be kept"


def _in_processes(work: Work, common: Any, todo: Sequence[Job], workers: int, tally: _Tally) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # a new interpreter for each: a fork of a process whose libraries have threads can hang
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work, common))
    try:
        _collect({pool.submit(_work, job.argument): job.key for job in todo}, tally)
    except BrokenProcessPool as error:
        raise UsageError(f"{_DIED}; give fewer workers: {tally.stands()}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(futures: Mapping[Future[Any], str], tally: _Tally) -> None:
    """Keep results as they come; when stopped, those of the jobs that are running too."""
    waiting = set(futures)
    try:
        while waiting:
            done, waiting = wait(waiting, return_when="FIRST_COMPLETED")
            for future in done:
                tally.keep(futures[future], future.result())
    except BaseException:
        running = [future for future in futures if futures[future] not in tally.results and not future.cancel()]
        for future in wait(running).done:
            if not future.exception():
                tally.keep(futures[future], future.result())
        raise


_shared: tuple[Work, Any] | None = None


def _begin(work: Work, common: Any) -> None:
    """What a worker process does first: takes what the jobs share, leaves Ctrl-C to its parent, and sees to it that it does not outlive it."""
    import signal
    from multiprocessing import parent_process
    from threading import Thread

    global _shared
    _shared = (work, common)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:
        Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    from multiprocessing.connection import wait as wait_for

    wait_for([parent])
    os._exit(1)


def _work(argument: Any) -> Any:
    assert _shared is not None, "a worker begins with _begin"
    work, common = _shared
    return work(common, argument)


def _on_dask(work: Work, common: Any, todo: Sequence[Job], address: str, tally: _Tally) -> None:
    """On a cluster's workers. Every future that fails because the scheduler is gone fails the run, in a sentence."""
    distributed = _distributed()
    log = logging.getLogger("distributed.client")
    client, level = _client(distributed, address), log.level
    log.setLevel(logging.CRITICAL)  # what goes wrong is raised
    try:
        shared = client.scatter(common, broadcast=True)
        futures = {client.submit(work, shared, job.argument, key=f"embarq-{job.key}", pure=True): job.key for job in todo}
        for future in distributed.as_completed(futures, loop=client.loop):
            if future.status == "cancelled":
                raise LinkError(f"the Dask scheduler at {address} went away; start it again: {tally.stands()}")
            tally.keep(futures[future], future.result())
    except distributed.KilledWorker as error:
        raise UsageError(f"{_DIED}; give the Dask workers more: {tally.stands()}") from error
    except (OSError, TimeoutError, distributed.comm.CommClosedError) as error:
        raise LinkError(f"the Dask scheduler at {address} does not answer any more ({error}); {tally.stands()}") from error
    finally:
        client.close(timeout=2)
        log.setLevel(level)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ToolError('running on a Dask cluster needs distributed; pip install "embarq[dask]"') from error
    return distributed


def _client(distributed: Any, address: str) -> Any:
    """Connected, with at least one worker behind it."""
    try:
        client = distributed.Client(address, timeout=ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise LinkError(f"no Dask scheduler answers at {address}; start one with `dask scheduler` and name its address, or leave dask out") from error
    try:
        client.wait_for_workers(1, timeout=ANSWER_S)
    except TimeoutError as error:
        client.close(timeout=2)
        raise LinkError(f"the Dask scheduler at {address} has no workers; start some with `dask worker {address}`") from error
    return client
