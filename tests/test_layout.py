"""The layout that docs/architecture.md describes: every module imports only from those above it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "autowarmup"


def layers() -> list[str]:
    """The modules in the order in which docs/architecture.md lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    listing = text.split("<!-- layers -->")[1]
    return re.findall(r"^\| `([a-z_/]+)`", listing, re.MULTILINE)


def room(path: Path) -> str:
    """The layer that a file belongs to: its module, or its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return f"{parts[0]}/" if len(parts) > 1 else parts[0]


def imports(path: Path) -> set[str]:
    """The layers that a file imports when it runs; imports for type checking alone don't count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "autowarmup" else {f"autowarmup.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = {name.split(".")[1] for name in names if name.startswith("autowarmup.")}
    return {f"{name}/" if (PACKAGE / name).is_dir() else name for name in found}


def test_every_module_imports_only_from_layers_above_it() -> None:
    order = layers()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name in {"__init__.py", "__main__.py"} and path.parent == PACKAGE:
            continue
        own = room(path)
        below = {name for name in imports(path) if name != own and order.index(name) >= order.index(own)}
        assert not below, f"{path.relative_to(ROOT)} imports {below}, which stand below {own} in docs/architecture.md"


def test_the_architecture_names_every_module() -> None:
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(layers())


HEAVY = {"torch", "ray", "mlflow", "matplotlib", "optuna"}
HOMES = {
    "torch": {"scheduler.py", "rng.py", "batch.py", "data.py", "losses.py", "average.py", "distributed.py"}
    | {"trial.py", "task.py"},
    "mlflow": {"tracking/mlflow.py"},
    "matplotlib": {"report/figures.py", "report/style.py"},
    "optuna": {"search.py"},
    "ray": {"tune.py", "engines/ray.py", "engines/worker.py", "engines/crew.py", "engines/cluster.py"},
}


def test_heavy_libraries_are_imported_only_where_they_are_the_subject() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} & HEAVY:
                assert str(path.relative_to(PACKAGE)) in HOMES[name], f"{path} imports {name} at its top"


def test_the_wheel_holds_what_runs_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"autowarmup"}
    presets = {f"autowarmup/search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert presets | {"autowarmup/py.typed", "autowarmup/report/report.html.j2"} <= inside
