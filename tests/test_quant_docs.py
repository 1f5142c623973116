"""docs/quantisation.md is true: its code runs, its options and fields are those there are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sdk import cli
from sdk.passes.quantise import QuantOptions

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "quantisation.md").read_text(encoding="utf-8")


def test_the_example_runs_and_sixteen_bits_help(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.search(r"([\d.]+) -> ([\d.]+) dB with 16-bit", done.stdout).groups())
    assert after > before + 0.5
    for column in re.findall(r"^\| ([A-Za-z ]+) \| ", TEXT.split("## Reading the report")[1].split("##")[0], re.M)[1:]:
        assert column in done.stdout, column


def test_the_fields_are_those_of_the_options() -> None:
    table = TEXT.split("## What can be chosen")[1].split("## What it costs")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [f.name for f in fields(QuantOptions)]


def test_the_commands_have_these_options(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    for line in block.splitlines():
        assert cli.main([line.split()[1], "--help"]) == 0
        shown = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", line):
            assert re.search(rf"[\s│]{option}\b", shown), f"{option} in: {line}"


def test_the_command_line_reports_on_a_real_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    import numpy as np

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32))
    asked = ["plan", "stm32f405", str(tmp_path / "net.pt2"), "--calibration", str(tmp_path / "x.npy"), "--report"]
    assert cli.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["quant_report"]
    assert found["samples"] == 20 and found["worst"] and 20 < found["output_db"] < 80
    assert cli.main([*asked, *(word for node in found["worst"] for word in ("--int16", node))]) == 0
    text = capsys.readouterr().out
    assert "outputs at" in text and " int16 " in text and f"int16 for {found['worst'][0]}" in text
    assert cli.main(["plan", "stm32f405", str(tmp_path / "net.pt2"), "--report"]) == 2
    assert "nothing was quantised here; give a float model and calibration data" in capsys.readouterr().err
