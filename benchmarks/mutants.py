"""Would the tests notice? Small changes are made to the code at random, and the tests of each module are run.

python -m benchmarks.mutants                   # all modules: prints the table
python -m benchmarks.mutants --write           # and writes it, with what survived, to benchmarks/results/mutants.md
python -m benchmarks.mutants store --seed 3    # some modules, other changes

A change is one comparison, sign, operator, number, boolean, ``min`` or ``max``, or one call left out. They are drawn
with a seed, at most one at a place. mutmut 3 changes the bodies of functions only, and most thresholds here are
constants of classes and modules; cosmic-ray changes these too, but starts an interpreter for every change, two seconds
for torch alone. Neither draws a sample. Here every change is a fork of a process that has imported the libraries.
It works on a copy of the repository, so the processes that tests start see the change as well.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutants.md"
NOTES = "## Looked at"
"""What follows this heading in the results is written by hand, and kept."""
PARTS = ("autowarmup", "tests", "search_spaces", "benchmarks", "pyproject.toml")
LIBRARIES = ("torch", "sklearn.gaussian_process", "scipy.stats", "optuna", "pydantic", "mlflow", "pandas")
"""Imported once, before the forks."""
SEARCH = "search/search.py search/exploration.py search/confirmation.py search/conclusion.py"
SCHEDULE = "schedule/schedule.py schedule/shapes.py schedule/decays.py"
MODULES = {
    "instability": ("instability/*.py", "detectors_golden instability", 80),
    "space": ("schedule/space.py schedule/ranges.py", "space_exactly space", 30),
    "schedule": (SCHEDULE, "schedule", 30),
    "store": ("study/store.py", "store", 30),
    "verdict": ("search/verdict.py", "verdict", 30),
    "surrogate": ("search/surrogate.py", "surrogate", 30),
    "candidates": ("search/candidates.py", "candidates", 30),
    "probe": ("search/probe.py", "probe", 30),
    "search": (SEARCH, "search_decisions search verdict search_slots", 40),
    "pairs": ("search/pairs.py search/prior.py", "pairs prior", 30),
    "trial": ("training/trial.py", "trial_by_hand trial distributed", 30),
    "average": ("training/average.py", "average", 30),
}
"""The files that are changed, the tests that have to notice, and how many changes are drawn."""

# --- The changes -----------------------------------------------------------------------------------------

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
}
for one, other in (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn):
    COMPARED |= {one: (other,), other: (one,)}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Mult: ast.Div}
OPERATORS |= {after: before for before, after in OPERATORS.items()}
OPERATORS |= dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow), ast.Mult)


def variants(node: ast.AST) -> Iterator[str]:
    """The source of everything that a node may be changed to."""
    match node:
        case ast.Compare(left, ops, right):
            for i, op in enumerate(ops):
                for changed in COMPARED[type(op)]:
                    yield f"({ast.unparse(ast.Compare(left, [*ops[:i], changed(), *ops[i + 1 :]], right))})"
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield f"({ast.unparse(ast.BinOp(left, OPERATORS[type(op)](), right))})"
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.unparse(ast.AugAssign(target, OPERATORS[type(op)](), value))
        case ast.BoolOp(op, values):
            yield f"({ast.unparse(ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values))})"
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.Constant(bool(value)):
            yield repr(not value)
        case ast.Constant(int(value)):
            yield from {repr(value + 1), repr(2 * value or 1)}
        case ast.Constant(float(value)):
            yield repr(2 * value or 1.0)
        case ast.Call(ast.Name("min" | "max" as name)):
            yield ast.unparse(ast.Call(ast.Name("max" if name == "min" else "min"), node.args, node.keywords))
        case ast.Expr(ast.Call()):
            yield "pass"


def changeable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that are run and have a place: no annotations, decorators and protocols, no f-strings."""
    if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
        return
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            skipped = name in ("annotation", "returns", "decorator_list") or isinstance(child, ast.JoinedStr)
            if isinstance(child, ast.AST) and not skipped:
                yield child
                yield from changeable(child)


class Mutant(NamedTuple):
    """One change of one file."""

    file: str
    text: str
    changed: str

    def __str__(self) -> str:
        lines = difflib.unified_diff(self.text.splitlines(), self.changed.splitlines(), n=0, lineterm="")
        return "\n".join([f"`{self.file}`\n\n```diff", *list(lines)[2:], "```\n"])


def draw(root: Path, name: str, seed: int) -> list[Mutant]:
    """The mutants of a module: one change of every place, and of these as many as are wanted."""
    patterns, _, count = MODULES[name]
    number, places = random.Random(f"{name} {seed}"), []
    for path in sorted(path for pattern in patterns.split() for path in (root / "autowarmup").glob(pattern)):
        data = path.read_bytes()
        starts = [0]
        for line in data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for node in changeable(ast.parse(data)):
            if choices := sorted(variants(node)):
                begin = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                changed = data[:begin] + number.choice(choices).encode() + data[end:]
                places.append(Mutant(str(path.relative_to(root)), data.decode(), changed.decode()))
    return number.sample(places, min(count, len(places)))


# --- The runs --------------------------------------------------------------------------------------------


def run_tests(copy: Path, files: list[str], fresh: bool) -> None:
    """In a fork: runs the tests on the copy, and exits with pytest's code. ``fresh`` writes no bytecode."""
    os.setsid()
    os.chdir(copy)
    for descriptor in (1, 2):
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT), descriptor)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"], sys.dont_write_bytecode = str(copy), fresh
    for name in [name for name in sys.modules if name.split(".")[0] in ("autowarmup", "tests", "benchmarks")]:
        del sys.modules[name]
    phases = hypothesis.Phase.explicit, hypothesis.Phase.generate
    hypothesis.settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutants")
    options = ["-x", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    os._exit(int(pytest.main([*options, *files])))


def passes(copy: Path, name: str, limit: float, fresh: bool = True) -> bool:
    """Whether the module's tests pass, within ``limit`` seconds."""
    files = [f"tests/test_{test}.py" for test in MODULES[name][1].split()]
    fork = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, files, fresh))
    fork.start()
    fork.join(limit)
    if fork.is_alive():
        os.killpg(fork.pid or 0, signal.SIGKILL)
        fork.join()
    return fork.exitcode == 0


def survivors(copy: Path, name: str, mutants: list[Mutant]) -> Iterator[Mutant]:
    """Those of the mutants that the module's tests don't notice."""
    began = time.monotonic()
    if not passes(copy, name, 600.0, fresh=False):
        raise SystemExit(f"{name}: its tests fail unchanged:\n{(copy / 'output.txt').read_text()}")
    limit = 10.0 + 3.0 * (time.monotonic() - began)
    for mutant in mutants:
        place = copy / mutant.file
        place.write_text(mutant.changed, encoding="utf-8")
        for stale in place.parent.glob(f"__pycache__/{place.stem}.*"):
            stale.unlink()
        if passes(copy, name, limit):
            yield mutant
        place.write_text(mutant.text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help=f"of {', '.join(MODULES)}; without one, all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the results of these modules, keep the others'")
    arguments = parser.parse_args()
    for library in LIBRARIES:
        importlib.import_module(library)
    before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else f"{NOTES}\n"
    rows = {name: row for row, name in re.findall(r"(?m)^(\| ([a-z]+) \| \d.*)$", before.partition(NOTES)[0])}
    found = dict(re.findall(r"(?ms)^### ([a-z]+)\n(.*?)(?=^##)", before))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for part in PARTS:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, copy / part)
        for name in arguments.modules or MODULES:
            began, mutants, alive = time.monotonic(), draw(copy, name, arguments.seed), []
            for mutant in survivors(copy, name, mutants):
                alive.append(str(mutant))
                print(mutant, flush=True)
            noticed, minutes = len(mutants) - len(alive), (time.monotonic() - began) / 60
            share = f"{noticed} | {noticed / len(mutants):.0%} | {arguments.seed} | {minutes:.0f}"
            rows[name] = f"| {name} | {len(mutants)} | {share} |"
            found[name] = "\n".join(["", *alive]) + "\n" if alive else "\nNone survived.\n\n"
            print(rows[name], flush=True)
            if arguments.write:
                head = "# Small changes to the code, and whether the tests notice\n\n`make mutants`, on"
                head += f" {os.cpu_count()} shared cores, Python {platform.python_version()}.\n"
                table = ["| module | mutants | noticed | share | seed | minutes |", "| --- |" + " ---: |" * 5]
                table += [rows[module] for module in MODULES if module in rows]
                sections = "".join(f"### {module}\n{found[module]}" for module in MODULES if module in found)
                text = "\n".join([head, *table, "", "## Survivors", "", sections])
                RESULTS.write_text(text + NOTES + before.partition(NOTES)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
