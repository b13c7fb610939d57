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
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutants.md"
NOTES = "## Looked at"
"""What follows this heading in the results is written by hand, and kept."""
PARTS = ("autowarmup", "tests", "search_spaces", "benchmarks", "pyproject.toml")
LIBRARIES = ("torch", "sklearn.gaussian_process", "scipy.stats", "optuna", "pydantic", "mlflow", "pandas")
"""Imported once, before the forks."""


@dataclass(frozen=True)
class Module:
    """What is changed, by which tests that has to be noticed, and how many changes are drawn."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    mutants: int = 30


MODULES = (
    Module("instability", ("instability/*.py",), ("detectors_golden", "instability"), 80),
    Module("space", ("schedule/space.py",), ("space",)),
    Module("schedule", ("schedule/schedule.py", "schedule/shapes.py", "schedule/decays.py"), ("schedule",)),
    Module("store", ("study/store.py",), ("store",)),
    Module("verdict", ("search/verdict.py",), ("verdict",)),
    Module("surrogate", ("search/surrogate.py",), ("surrogate",)),
    Module("candidates", ("search/candidates.py",), ("candidates", "search")),
    Module("probe", ("search/probe.py",), ("probe",)),
    Module("search", ("search/search.py",), ("search",)),
    Module("trial", ("training/trial.py",), ("trial_by_hand", "trial")),
    Module("average", ("training/average.py",), ("average",)),
)

# --- The changes -----------------------------------------------------------------------------------------

ORDER = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)}
NEGATED = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn}
COMPARED = ORDER | {before: (after,) for before, after in (NEGATED | {ast.NotIn: ast.In}).items()}
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
OPERATORS = ARITHMETIC | {ast.Mod: ast.Mult, ast.Pow: ast.Mult}


def variants(node: ast.AST) -> Iterator[str]:
    """The source of everything that a node may be changed to."""
    match node:
        case ast.Compare(ops=[*ops]):
            for i, op in enumerate(ops):
                for other in COMPARED[type(op)]:
                    changed = [*ops[:i], other(), *ops[i + 1 :]]
                    yield f"({ast.unparse(ast.Compare(node.left, changed, node.comparators))})"
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
            other = ast.Name("max" if name == "min" else "min")
            yield ast.unparse(ast.Call(other, node.args, node.keywords))
        case ast.Expr(ast.Call()):
            yield "pass"


def changeable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that are run and have a place: no annotations, decorators and protocols, no f-strings."""
    if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from changeable(child)


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    text: str
    changed: str

    @property
    def diff(self) -> str:
        lines = difflib.unified_diff(self.text.splitlines(), self.changed.splitlines(), self.file, n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("+++", "---")))


def mutants_of(file: str, number: random.Random) -> list[Mutant]:
    """One change of every place in a file, each drawn from those that are possible there."""
    data = (ROOT / file).read_bytes()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in changeable(ast.parse(data)):
        choices = sorted(variants(node))
        if choices:
            begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            changed = data[:begin] + number.choice(choices).encode() + data[end:]
            found.append(Mutant(file, data.decode(), changed.decode()))
    return found


def draw(module: Module, seed: int) -> list[Mutant]:
    number = random.Random(f"{module.name} {seed}")
    files = sorted({path for pattern in module.files for path in (ROOT / "autowarmup").glob(pattern)})
    places = [mutant for path in files for mutant in mutants_of(str(path.relative_to(ROOT)), number)]
    return number.sample(places, min(module.mutants, len(places)))


# --- The runs --------------------------------------------------------------------------------------------


def run_tests(copy: Path, files: list[str], write_bytecode: bool) -> None:
    """In a fork: runs the tests on the copy, and exits with pytest's code."""
    os.setsid()
    os.chdir(copy)
    sink = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    sys.dont_write_bytecode = not write_bytecode
    for name in [name for name in sys.modules if name.split(".")[0] in ("autowarmup", "tests", "benchmarks")]:
        del sys.modules[name]
    quick = hypothesis.Phase.explicit, hypothesis.Phase.generate
    hypothesis.settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=quick)
    hypothesis.settings.load_profile("mutants")
    options = ["-x", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*options, *files])
    sys.stdout.flush()
    os._exit(int(code))


def outcome(copy: Path, files: list[str], limit: float, write_bytecode: bool = False) -> str:
    """``passed``, ``failed``, or ``timeout`` after ``limit`` seconds."""
    fork = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, files, write_bytecode))
    fork.start()
    fork.join(limit)
    late = fork.is_alive()
    if late:
        os.killpg(fork.pid or 0, signal.SIGKILL)
        fork.join()
    return "timeout" if late else "failed" if fork.exitcode else "passed"


def survivors(module: Module, copy: Path, mutants: list[Mutant]) -> list[Mutant]:
    """Those of the mutants that the module's tests don't notice."""
    files = [f"tests/test_{name}.py" for name in module.tests]
    files = [file for file in files if (copy / file).exists()]
    began = time.monotonic()
    if outcome(copy, files, 600.0, write_bytecode=True) != "passed":
        raise SystemExit(f"{module.name}: its tests fail unchanged:\n{(copy / 'output.txt').read_text()}")
    limit = 10.0 + 3.0 * (time.monotonic() - began)
    alive = []
    for mutant in mutants:
        place = copy / mutant.file
        place.write_text(mutant.changed, encoding="utf-8")
        for stale in place.parent.glob(f"__pycache__/{place.stem}.*"):
            stale.unlink()
        if outcome(copy, files, limit) == "passed":
            alive.append(mutant)
            print(mutant.file, mutant.diff, sep="\n", flush=True)
        place.write_text(mutant.text, encoding="utf-8")
    return alive


def main() -> None:
    names = [module.name for module in MODULES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help=f"of {', '.join(names)}; all where none is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(names):
        parser.error(f"no module {', '.join(sorted(unknown))}")
    for library in LIBRARIES:
        importlib.import_module(library)
    rows, lists = [], []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for part in PARTS:
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / part)
        for module in MODULES:
            if arguments.modules and module.name not in arguments.modules:
                continue
            mutants = draw(module, arguments.seed)
            alive = survivors(module, copy, mutants)
            noticed = len(mutants) - len(alive)
            rows.append(f"| {module.name} | {len(mutants)} | {noticed} | {noticed / len(mutants):.0%} |")
            print(rows[-1], flush=True)
            lists += [f"`{mutant.file}`\n\n```diff\n{mutant.diff}\n```\n" for mutant in alive]
    minutes = (time.monotonic() - began) / 60
    table = "\n".join(["| module | mutants | noticed | share |", "| --- | ---: | ---: | ---: |", *rows])
    print(f"\n{table}\n\n{minutes:.0f} minutes")
    if arguments.write:
        notes = RESULTS.read_text(encoding="utf-8").partition(NOTES)[2] if RESULTS.exists() else "\n"
        head = (
            f"# Small changes to the code, and whether the tests notice\n\n`make mutants`, seed {arguments.seed}: "
            f"{minutes:.0f} minutes on {os.cpu_count()} cores, shared, Python {platform.python_version()}."
        )
        RESULTS.write_text("\n\n".join([head, table, "## Survivors", *lists, NOTES]) + notes, encoding="utf-8")


if __name__ == "__main__":
    main()
