"""The house stands: imports go down, the wheel holds what it should, every public name is documented, importing costs nothing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sdk", "firmware_bridge", "targets")

#: A module may import from its own floor and from those below. The longest prefix of a module's name that stands here counts.
FLOORS = {
    "sdk.errors": 0, "sdk.__version__": 0, "sdk.runner": 0, "targets": 0, "firmware_bridge": 1, "sdk.graph": 2, "sdk.data": 2.5, "sdk.golden": 2.5,
    "sdk.passes": 3, "sdk.kernels": 3.5, "sdk.runtime": 3.5, "sdk.planner": 4, "sdk.backends": 5, "sdk.training": 5, "sdk.training.payload": 5.6,
    "sdk.training.mcu.golden": 6, "sdk.model": 5.5, "sdk.linux": 5.6, "sdk.planning": 5.7, "sdk.bundle": 5.5, "sdk.zipapp": 5.5,
    "sdk.prepare": 5.8, "sdk.moofa": 6, "sdk.tlc": 6, "sdk.fitting": 6,
    "sdk.train_result": 5.5, "sdk.remote_training": 6, "sdk.session": 6, "sdk.training_session": 6, "sdk.training_values": 6,
    "sdk.training_artifact": 6, "sdk.remote": 6, "sdk.artifact": 6, "sdk.device_rates": 6.6, "sdk": 6.5, "sdk.commands": 7, "sdk.cli": 7,
}  # fmt: skip
#: Imported only inside the functions that need them, so that a user installs only what a device asks for.
HEAVY = {
    "torch", "torchvision", "executorch", "onnx", "onnxscript", "onnxruntime", "ai_edge_litert", "tensorflow", "jax", "unicorn", "ziglang",
    "elftools", "intelhex", "capstone", "matplotlib", "plotly", "serial", "smp", "smpclient", "cbor2", "sklearn", "scipy", "PIL", "pandas",
    "pydantic", "imgtool", "paramiko", "tensorrt", "tflite_runtime", "torchao", "dask", "distributed", "pytest", "hypothesis",
}  # fmt: skip
#: The module, or package, that stands for a library whose classes it builds on; it is itself imported only inside functions.
ADAPTERS = {
    "firmware_bridge.emulator.unicorn_api": {"unicorn"},
    "firmware_bridge.messages": {"smp", "pydantic"},
    "firmware_bridge.training_messages": {"smp", "pydantic"},
    "sdk.training.nn": {"torch"},
    "sdk.prepare.moofa.nn": {"torch"},
    "sdk.prepare.tlc.nn": {"torch"},
}


def adapter(name: str) -> str | None:
    """The entry of ADAPTERS that `name` is, or lies in."""
    return next((a for a in ADAPTERS if f"{name}.".startswith(f"{a}.")), None)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module in the wheel."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def floor(name: str) -> float:
    """The floor of a module of ours."""
    parts = name.split(".")
    return next(FLOORS[prefix] for n in range(len(parts), 0, -1) if (prefix := ".".join(parts[:n])) in FLOORS)


def imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module or name, line) for everything `path` imports, wherever in the file it does so."""
    content = tree(path)
    for node in ast.walk(content):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if not (alias.name == "sdk" and reads_version_only(content)))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def reads_version_only(content: ast.Module) -> bool:
    """True when `sdk` stands in this file only as `sdk.__version__`: the package's own module imports nothing."""
    uses = [n for n in ast.walk(content) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "sdk"]
    return all(use.attr == "__version__" for use in uses)


def test_imports_go_down_only():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} (floor {floor(name):g}) imports {target} (floor {floor(target):g})"
        for name, path in modules()
        for target, line in imports(name, path)
        if target.split(".")[0] in PACKAGES and floor(target) > floor(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_floor_check_sees_every_form_of_import(tmp_path):
    text = "import sdk.cli\nfrom sdk import passes\ndef f():\n    from ..planner import plan\n    import sdk\n    sdk.plan()\n"
    path = tmp_path / "ir.py"
    path.write_text(text)
    assert {target for target, _ in imports("sdk.graph.ir", path)} == {"sdk.cli", "sdk.passes", "sdk", "sdk.planner.plan"}


def test_every_module_has_a_floor_of_its_own():
    """`sdk` is the floor of the package's own module only; a new module must be given a place."""
    homeless = [name for name, _ in modules() if name.startswith("sdk.") and floor(name) == FLOORS["sdk"]]
    assert not homeless, f"give these a floor in FLOORS: {', '.join(homeless)}"


def test_errors_import_nothing():
    assert [target for target, _ in imports("sdk.errors", ROOT / "sdk" / "errors.py")] == ["__future__.annotations"]


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {target}"
        for name, path in modules()
        for node in module_level(tree(path))
        for target in targets_of(node)
        if target.split(".")[0] in HEAVY - ADAPTERS.get(adapter(name) or "", set()) or (adapter(target) and adapter(target) != adapter(name))
    ]
    assert not wrong, "\n".join(wrong)


def test_each_adapter_is_needed():
    for name, libraries in ADAPTERS.items():
        files = [path for module, path in modules() if adapter(module) == name]
        found = {target.split(".")[0] for path in files for node in module_level(tree(path)) for target in targets_of(node)}
        assert libraries <= found, f"{name} no longer imports {libraries - found}; take it out of ADAPTERS"


def module_level(content: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported (not inside a function, not under TYPE_CHECKING)."""
    todo: list[ast.AST] = list(content.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.stmt):
            yield node
        todo.extend(ast.iter_child_nodes(node))


def targets_of(node: ast.stmt) -> list[str]:
    """Dotted names that an absolute import statement may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


IMPORT_ALL = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ImportError(name + " must not be imported here")

HEAVY = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Refuse())
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
"""


def python(*args: str, **options) -> subprocess.CompletedProcess[str]:
    """This interpreter in a process of its own, in the repository's root."""
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **options)


def test_every_module_imports_where_no_heavy_library_is_installed():
    names = [name for name, path in modules() if path.name != "__main__.py" and not adapter(name)]
    done = python("-c", IMPORT_ALL, json.dumps(sorted(HEAVY)), json.dumps(names))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "importing a module only defines names"


IMPORT_SDK = """
import json, sys
before, calls = set(sys.modules), 0
def count(frame, event, arg):
    global calls
    calls += event == "call"
sys.setprofile(count)
import sdk
sys.setprofile(None)
print(json.dumps({"new": sorted(set(sys.modules) - before), "calls": calls}))
"""


def test_import_sdk_is_light():
    run = json.loads(python("-c", IMPORT_SDK).stdout)
    top = {name.split(".")[0] for name in run["new"]}
    assert top <= set(sys.stdlib_module_names) | {"sdk"}, f"import sdk loads {sorted(top - set(sys.stdlib_module_names) - {'sdk'})}"
    assert len(run["new"]) < 120
    assert run["calls"] < 20_000


def undocumented(name: str, path: Path) -> Iterator[str]:
    """Public classes, functions and methods without a docstring; a Protocol's members are told by the Protocol's own."""
    content = tree(path)
    if not ast.get_docstring(content) and path.read_text(encoding="utf-8").strip():
        yield f"{name} (the module)"
    for node in content.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{name}.{node.name}"
        if isinstance(node, ast.ClassDef) and "Protocol" not in [ast.unparse(base) for base in node.bases]:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and not ast.get_docstring(method):
                    yield f"{name}.{node.name}.{method.name}"


def test_every_public_name_is_documented():
    missing = [text for name, path in modules() for text in undocumented(name, path)]
    assert not missing, "no docstring: " + ", ".join(missing)


def test_public_names_resolve():
    import sdk

    assert set(sdk.__all__) >= {"compile", "load", "open", "plan"}
    assert all(getattr(sdk, name) is not None for name in sdk.__all__)


def test_setuptools_finds_exactly_the_three_packages():
    setuptools = pytest.importorskip("setuptools")
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = setuptools.find_packages(str(ROOT), **config["packages"]["find"])
    spaces = setuptools.find_namespace_packages(str(ROOT), **config["packages"]["find"])
    assert {name.split(".")[0] for name in (*found, *spaces)} == set(PACKAGES)
    assert "py-modules" not in config


def tracked() -> list[Path]:
    """Files under version control; where there is none (a source archive), every file but what tools leave behind."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    skip = {".venv", ".git", "out", "build", "dist", "demo", ".cache", "__pycache__", "embarq.egg-info"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not skip & set(path.relative_to(ROOT).parts)]


@pytest.mark.long
def test_the_wheel_holds_the_three_packages_and_all_their_files(tmp_path):
    source = tmp_path / "source"
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    done = python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("embarq-*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == set(PACKAGES)
    wanted = {str(path.relative_to(ROOT)) for path in tracked() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert wanted - inside == set(), "not in the wheel; see package-data in pyproject.toml"


#: Folders of somebody's machine: a file that names one works only there.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|root|Users/\w+|home/\w+)/")


def test_no_file_names_a_folder_of_some_machine():
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.relative_to(ROOT)}:{i}" for i, line in enumerate(text.splitlines(), 1) if MACHINE_PATH.search(line)]
    assert not wrong, ", ".join(wrong)
    assert MACHINE_PATH.search("see " + "/".join(("", "root", "x")))


def test_scripts_are_executable():
    for name in ("scripts/setup", ".ci/run"):
        assert (ROOT / name).stat().st_mode & 0o111, f"{name} is not executable"
        assert subprocess.run(["bash", "-n", str(ROOT / name)], check=False).returncode == 0


def test_each_make_target_that_the_documents_name_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    assert {"setup", "demo", "test", "test-all", "lint", "clean"} <= targets
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        for named in re.findall(r"\bmake ((?:[a-z][a-z-]*)(?: test| lint)*)(?=[`\s,;.]|$)", code_of(ROOT / name)):
            assert set(named.split()) <= targets, f"{name} names make {named}"


def code_of(path: Path) -> str:
    """The code in a document: fenced blocks and `inline` pieces; a script is all code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        return "\n".join(re.findall(r"make [a-z-]+$", text, re.M))
    return "\n".join((*re.findall(r"```\w*\n(.*?)```", text, re.S), *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)))
