"""The README is true: its code runs, its commands and options exist, its list of devices is the list of devices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sdk import cli
from sdk.commands import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a second-level heading."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_python_example_runs(tmp_path):
    for library in ("torch", "ziglang", "unicorn"):
        pytest.importorskip(library)
    (code,) = blocks("python")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "stm32f405" in done.stdout
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_the_table_of_commands_is_the_list_of_commands():
    named = re.findall(r"^\| `embarq (\w+)", section("From the command line"), re.M)
    assert sorted(named) == sorted(command.__name__ for command in app.COMMANDS)


def test_each_option_in_the_readme_exists(capsys):
    for line in re.findall(r"`(embarq [^`]+)`", README):
        words = line.split()
        if words[1].startswith("-"):
            continue
        assert cli.main([words[1], "--help"]) == 0
        text = capsys.readouterr().out
        for option in (word for word in words[2:] if word.startswith("-")):
            assert re.search(rf"[\s│]{re.escape(option)}\b", text), f"{option} in: {line}"


def test_the_list_of_devices_is_the_list_of_devices():
    from targets.device import device_names

    named = re.findall(r"`([a-z0-9+-]+)`", section("Devices"))
    assert set(named) == set(device_names())


def test_each_link_leads_to_a_file():
    for name in ("README.md", "CONTRIBUTING.md", "docs/ops.md", "docs/quantisation.md", "docs/training.md", "docs/linux.md", "docs/moofa.md", "docs/tlc.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


def test_the_extras_named_are_the_extras_there_are():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"embarq\[(\w+)\]", README)) <= set(extras)


@pytest.mark.long
def test_the_example_of_learning_runs(tmp_path):
    for library in ("torch", "ziglang", "unicorn"):
        pytest.importorskip(library)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(encoding="utf-8"), re.S))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    before, after = re.search(r"held-back samples: ([0-9.]+) % before, ([0-9.]+) % after", done.stdout).groups()
    assert float(after) > float(before) + 20
    assert (tmp_path / "out" / "payload" / "program.pt2").is_file()


@pytest.mark.long
@pytest.mark.parametrize(("page", "said"), [("moofa", "small-ofa on stm32f746, budget|equal-memory on stm32f746, budget"), ("tlc", "sequential on stm32f746")])
def test_the_examples_of_making_networks_run(page, said, tmp_path):
    for library in ("torch", "ziglang", "unicorn"):
        pytest.importorskip(library)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.S))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout), done.stdout


@pytest.mark.long
def test_the_demo_runs_and_proves_what_it_says(tmp_path):
    for library in ("torch", "ziglang", "unicorn", "sklearn"):
        pytest.importorskip(library)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--output", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "100.00 % of the board's 3,600 output bytes are the interpreter's" in done.stdout
    accuracy = done.stdout.split("Accuracy on the held-out", 1)[1].split("Memory on")[0]
    right = [float(text) for text in re.findall(r"(\d+\.\d+) %\s*$", accuracy, re.M)]
    assert len(right) == 3 and min(right) > 95.0 and max(right) - min(right) < 1.0
