"""What holds for every test: one thread for the number crunchers, Ctrl-C that arrives, reproducible hypothesis runs, and skips that say why."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before a test imports numpy or torch: they read it once

# A shell that starts the tests in the background has them, and every process they start, ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a test must not depend on how busy the machine is. Derandomised: the same tests on every run.
settings.register_profile("embarq", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("embarq")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `qemu` are skipped, with the mend, where QEMU is absent."""
    if shutil.which("qemu-system-arm"):
        return
    reason = pytest.mark.skip(reason="needs qemu-system-arm (apt-get install qemu-system-arm)")
    for item in items:
        if item.get_closest_marker("qemu"):
            item.add_marker(reason)
