"""The layout that docs/architecture.md describes: every module imports only from those above it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Container
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "autowarmup"


def wings() -> list[str]:
    """The wings in the order in which docs/architecture.md lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    listing = text.split("<!-- wings -->")[1]
    return re.findall(r"^\| `([a-z_/]+)`", listing, re.MULTILINE)


def wing(module: str) -> str:
    """The wing that a module belongs to: its folder, or the module itself."""
    name = module.split(".")[1]
    return f"{name}/" if (PACKAGE / name).is_dir() else name


def modules() -> dict[str, Path]:
    """Every module of the package by its name; a folder's ``__init__`` has the folder's name."""
    paths = {path: path.relative_to(ROOT).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))}
    names = {path: parts[:-1] if parts[-1] == "__init__" else parts for path, parts in paths.items()}
    return {".".join(parts): path for path, parts in names.items() if len(parts) > 1 and parts[-1] != "__main__"}


def imports(path: Path, known: Container[str]) -> set[str]:
    """The package's modules that a file imports anywhere, for type checking alone included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                names.add(module if module in known else node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in known}


def test_every_module_imports_only_from_its_own_wing_and_those_above_it() -> None:
    order, known = wings(), modules()
    for module, path in known.items():
        below = {
            name
            for name in imports(path, known)
            if wing(name) != wing(module) and order.index(wing(name)) > order.index(wing(module))
        }
        assert not below, f"{module} imports {below}, which stand below {wing(module)} in docs/architecture.md"


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    TopologicalSorter({module: imports(path, known) - {module} for module, path in known.items()}).prepare()


def test_the_architecture_names_every_wing() -> None:
    assert {wing(module) for module in modules()} == set(wings())


LONG: dict[str, str] = {}
"""Files of more than 400 lines, and why."""


def test_no_file_is_longer_than_400_lines_without_a_reason() -> None:
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name for name, count in lines.items() if count > 400} == set(LONG)


FRAMEWORKS = {"accelerate", "keras", "lightning", "pytorch_lightning", "transformers"}
HEAVY = {"torch", "ray", "mlflow", "matplotlib", "optuna"} | FRAMEWORKS
HOMES = {
    "torch": {"schedule/torch_scheduler.py", "audit/rate_audit.py", "audit/backwards.py"}
    | {f"schedule/{name}.py" for name in ("grouped_scheduler", "freezing")}
    | {f"adaptive/{name}.py" for name in ("slope", "scheduler")}
    | {f"training/{name}.py" for name in ("rng", "batch", "data", "losses", "gradients", "average", "distributed")}
    | {f"training/{name}.py" for name in ("identity", "optimizers", "groups", "recipe", "trial", "task")}
    | {f"guard/{name}.py" for name in ("guard", "training", "snapshots", "agreement")}
    | {f"integrations/{name}.py" for name in ("steps", "current", "transformers", "lightning", "accelerate")}
    | {f"integrations/guarded_{name}.py" for name in ("accelerate", "trainer", "lightning")},
    "mlflow": {f"tracking/{name}.py" for name in ("client", "metrics", "syncer")}
    | {"audit/mlflow_run.py", "guard/mlflow_run.py"},
    "matplotlib": {f"report/{name}.py" for name in ("figures", "style", "lines", "ground")}
    | {"audit/figure.py", "guard/figure.py"}
    | {f"report/{name}.py" for name in ("schedules", "loss_curves", "stability_map", "duration")},
    "optuna": {"study/optuna_study.py", "study/optuna_storage.py"}
    | {f"optuna/{name}.py" for name in ("trials", "run", "sampler", "pruner")},
    "ray": {"ray_tune.py"} | {f"engines/{name}.py" for name in ("ray", "session", "worker", "worker_group", "cluster")},
}


def test_heavy_libraries_are_imported_only_where_they_are_the_subject() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} & HEAVY:
                assert str(path.relative_to(PACKAGE)) in HOMES.get(name, ()), f"{path} imports {name} at its top"


def test_importing_the_package_loads_no_framework() -> None:
    """Nor does any module of it; the public names of the integrations are there all the same."""
    script = f"""
import importlib, pkgutil, sys
import autowarmup, autowarmup.integrations
assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)
for name in autowarmup.integrations.__all__:
    assert getattr(autowarmup.integrations, name).__module__.startswith("autowarmup.integrations.")
for module in pkgutil.walk_packages(autowarmup.__path__, "autowarmup."):
    importlib.import_module(module.name)
assert not {FRAMEWORKS} & set(sys.modules), {FRAMEWORKS} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, check=True)


def test_the_wheel_holds_what_runs_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in inside} == {"autowarmup"}
    presets = {f"autowarmup/search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    page = {f"autowarmup/service/page/{name}" for name in ("templates/live.html", "static/page.css", "static/page.js")}
    assert presets | page | {"autowarmup/py.typed", "autowarmup/report/report.html.j2"} <= inside
