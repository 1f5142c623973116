"""`embarq calibrate`: what the runner measures, the device file it becomes, and what plans make of it. No test looks at a speed's size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sdk import cli, device_rates
from sdk.commands import calibrate
from sdk.device_rates import Found, check_machine, device_file, measure_rates, run_calibrate
from sdk.errors import DeviceError, DeviceFileError, UsageError
from sdk.runner import rates
from targets.device import load_device
from tests.ssh_server import needs_sshd, ssh_server

ROOT = Path(__file__).resolve().parent.parent
RATES = (("memcpy/1t", "bytes_s", 2_000_000_000), ("onnx/float32/1t", "macs_s", 5_000_000_000))


def found(device: str = "rpi-4b") -> Found:
    return Found(load_device(device), 'a "Pi" (aarch64, 4 cores)', "2026-01-02", RATES)


# -- on the device ---------------------------------------------------------------------------------------------------


def test_every_thread_works_once_a_turn_and_the_fastest_turn_counts() -> None:
    done: list[int] = []
    assert 0 < rates.fastest(done.append, 3, 0.01) < 60
    assert len(done) % 3 == 0 and all(done.count(index) == len(done) // 3 for index in range(3))


def test_more_bytes_in_the_same_time_is_a_higher_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "fastest", lambda work, threads, seconds: [work(i) for i in range(threads)] and 0.5)
    assert rates.copy_rate(2, 1) == 2 * rates.COPY_BYTES / 0.5
    assert rates.product_rate(1, 1) == 8 * rates.SIDE**3 / 0.5


def check_runner(said: Any) -> None:
    names = [row["name"] for row in said["rates"]]
    assert names == [name for n in rates.thread_counts() for name in (f"memcpy/{n}t", f"numpy/float32/{n}t")]
    assert all(row.get("bytes_s", row.get("macs_s")) > 0 for row in said["rates"]) and said["processor"] and said["cores"] >= 1


def test_the_zipapp_measures_this_computer() -> None:
    check_runner(run_calibrate("local", seconds=0.05))


def test_the_runner_calibrates_with_numpy_alone() -> None:
    program = "import sys; from sdk.runner.__main__ import main; code = main(['calibrate', '--seconds', '0.02'])\n"
    program += "assert not {'torch', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "memcpy/1t" in done.stdout and "MAC/s" in done.stdout


@needs_sshd()
def test_a_device_over_ssh_is_measured_and_nothing_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paramiko", reason="needs paramiko: pip install 'embarq[ssh]'")
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path / "started"}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as server:
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        check_runner(run_calibrate(server.target(python=str(python)), seconds=0.05))
    runner = Path((tmp_path / "started").read_text().splitlines()[-1])
    assert runner.is_absolute() and not runner.exists()


def test_a_runner_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(DeviceError, match="dev: numpy is not installed"):
        device_rates._answer(6, "", "embarq-run: numpy is not installed; install it\n", "dev")
    with pytest.raises(DeviceError, match="killed by signal 9"):
        device_rates._answer(137, "", "", "dev")
    with pytest.raises(DeviceError, match="ended unasked"):
        device_rates._answer(0, "no json", "", "dev")


# -- the device file -------------------------------------------------------------------------------------------------


def test_the_file_is_the_device_with_its_rates_and_their_source(tmp_path: Path) -> None:
    path = tmp_path / "mypi.toml"
    calibrate.write(path, device_file(found(), "mypi", "rpi-4b"))
    device = load_device(path)
    assert device.name == "mypi" and device.cores == load_device("rpi-4b").cores
    assert [(r.name, r.macs_s, r.bytes_s) for r in device.rates] == [("memcpy/1t", None, 2_000_000_000), ("onnx/float32/1t", 5_000_000_000, None)]
    fact = device.facts["rates.onnx/float32/1t.macs_s"]
    assert fact.source == "calibrate" and 'a "Pi" (aarch64, 4 cores)' in device.sources["calibrate"] and "2026-01-02" in device.sources["calibrate"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_ones_own_is_extended_by_its_way_from_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    own = tmp_path / "boards" / "own.toml"
    own.write_text('name = "own"\nextends = "rpi-4b"\n')
    path = tmp_path / "mypi.toml"
    assert calibrate.base_of(load_device(own), str(own), path) == "boards/own.toml"
    calibrate.write(path, device_file(found(), "mypi", "boards/own.toml"))
    assert load_device(path).rates
    with pytest.raises(UsageError, match="cannot extend itself"):
        calibrate.base_of(load_device(own), str(own), own)


def test_a_file_that_would_not_load_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError):
        calibrate.write(tmp_path / "mypi.toml", device_file(found(), "mypi", "gone.toml"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ('name = "onnx/int8"\nmacs_s = 1', "must be called"),
        ('name = "onnx/int8/0t"\nmacs_s = 1', "must be called"),
        ('name = "onnx/int8/1t"\nbytes_s = 1', "needs macs_s"),
        ('name = "memcpy/1t"\nbytes_s = 0', "needs bytes_s"),
        ('name = "memcpy/1t"\nbytes_s = 1\nmacs_s = 1', "nothing else"),
        ('name = "memcpy/1t"\nspeed = 1', '"speed"'),
    ],
)
def test_a_rate_that_says_nothing_is_refused(tmp_path: Path, rate: str, said: str) -> None:
    path = tmp_path / "mypi.toml"
    path.write_text(f'name = "mypi"\nextends = "rpi-4b"\n[[rates]]\n{rate}\n')
    with pytest.raises(DeviceFileError, match=said):
        load_device(path)


# -- the whole way ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_calibrated_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="stm32f405 is a microcontroller"):
        measure_rates(load_device("stm32f405"))
    with pytest.raises(UsageError, match="no Linux device; give local or ssh"):
        run_calibrate("/dev/ttyACM0")
    with pytest.raises(DeviceError, match="rpi-4b is armv8-a and this computer is x86-64; give its address with --to"):
        check_machine(load_device("rpi-4b"), "local", "x86_64")
    with pytest.raises(DeviceError, match="name the device that it is"):
        check_machine(load_device("rpi-4b"), "ssh://pi@there", "x86_64")
    check_machine(load_device("rpi-4b"), "ssh://pi@there", "aarch64")
    check_machine(load_device("rpi-4b"), "ssh://pi@there", "armv7")


def test_engines_that_cannot_be_measured_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"machine": "aarch64", "cores": 4, "python": "3.11", "numpy": "2", "processor": "Pi", "rates": [{"name": "memcpy/1t", "bytes_s": 7}]}
    monkeypatch.setattr(device_rates, "run_calibrate", lambda target, ask: said)

    def no_torch(kind: str) -> Any:
        raise UsageError("needs torch")

    monkeypatch.setattr(device_rates, "probe_model", no_torch)
    got = measure_rates(load_device("rpi-4b"), "ssh://pi@there")
    assert got.rates == (("memcpy/1t", "bytes_s", 7),)
    assert len(got.notes) == 9 and all("needs torch" in note for note in got.notes)


def test_a_rate_is_the_fastest_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdk import remote

    class Session:
        def __enter__(self) -> Session:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def bench(self, repeats: int, warmup: int) -> Any:
            return SimpleNamespace(ms=(3.0, 2.0, 9.0), engine_version="1.0")

    monkeypatch.setattr(remote, "open_remote", lambda *args, **options: Session())
    artifact: Any = SimpleNamespace(manifest={"recipe": {"engine": "onnx", "precision": "int8", "threads": 2}})
    assert device_rates._measure(artifact, "local", 1_000_000, lambda _: None, None) == ("onnx/int8/2t", 500_000_000, "1.0")


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device_rates, "measure_rates", lambda device, to, progress: found(device.name))
    path = tmp_path / "mypi.toml"
    assert cli.main(["calibrate", "rpi-4b", "--to", "ssh://pi@there", "-o", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(path) and printed["rates"][0] == {"name": "memcpy/1t", "bytes_s": 2_000_000_000}
    assert cli.main(["calibrate", "rpi-4b", "-o", str(path)]) == 0  # its own file is replaced
    assert "5.00" in (text := capsys.readouterr().out) and f"embarq plan {path} MODEL" in text
    assert cli.main(["calibrate", "rpi-4b", "-o", str(path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_the_command_line_refuses_a_bad_place_before_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(device_rates, "measure_rates", never)
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nextends = "rpi-4b"\n')
    for place, said in ((tmp_path / "pi.txt", ".toml"), (tmp_path / "no" / "pi.toml", "no folder"), (own, "not written by calibrate")):
        assert cli.main(["calibrate", "host", "-o", str(place)]) == 2
        assert said in capsys.readouterr().err
    assert own.read_text().startswith('name = "own"')


@pytest.mark.long
def test_this_computer_is_calibrated_and_its_plans_tell_times(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    import sdk

    path = tmp_path / "here.toml"
    assert cli.main(["calibrate", "-o", str(path), "--quiet"]) == 0
    device = load_device(path)
    assert {"memcpy/1t", "numpy/float32/1t", "onnx/float32/1t", "onnx/int8/1t"} <= {r.name for r in device.rates}
    work = sdk.load(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval(), example=torch.zeros(1, 3, 32, 32))
    plan = sdk.plan(path, work, backend="onnx", threads=1)
    assert plan.candidates[0].latency is not None and "ms (x/" in str(plan)


@pytest.mark.long
@needs_sshd()
def test_engines_are_measured_over_ssh_and_their_probes_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("paramiko", "torch", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.setattr(device_rates, "ENGINES", ("onnx",))
    with ssh_server(tmp_path) as server:
        monkeypatch.setenv("HOME", str(server.home))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        got = measure_rates(load_device("host"), server.target(server.folder / "probe", python=sys.executable))
    names = {name for name, _, _ in got.rates}
    assert {f"onnx/{precision}/1t" for precision in ("float32", "int8", "dynamic-int8")} <= names and got.notes == ()
    assert list((server.folder / "probe" / "versions").iterdir()) == [] and "onnx" in got.about
