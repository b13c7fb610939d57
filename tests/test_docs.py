"""What the documentation says is true: docstring examples run, links within the repository lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import autowarmup

ROOT = Path(__file__).parent.parent
MODULES = [
    "autowarmup",
    *(module.name for module in pkgutil.walk_packages(autowarmup.__path__, "autowarmup.")),
]
PAGES = sorted(
    page for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")] if page.is_file()
)
FENCE = re.compile(r"(?ms)^ *(```+|~~~+).*?^ *\1 *$|`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^)>\s]+)|^\[[^\]]+\]:\s*(\S+)|(?:src|href)=[\"']([^\"']+)", re.MULTILINE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages that a module imports
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"tmp_path": tmp_path}, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_the_examples_are_found() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = finder.find(importlib.import_module("autowarmup.schedule.schedule"))
    assert {"autowarmup.schedule.schedule.Schedule", "autowarmup.schedule.schedule.Schedule.untuned_linear"} <= {
        test.name for test in tests if test.examples
    }


def links(text: str) -> list[str]:
    """The targets of a page's links and images, without those in code."""
    return ["".join(groups) for groups in LINK.findall(FENCE.sub("", text))]


def test_links_are_found() -> None:
    text = "[a](b.md#part) ![c](<d.png>) [e]: no\n[f]: g.md\n<img src='h.svg'> `[i](j)`\n"
    text += "```python\n[k](l)\n```\n[m](n)"
    assert links(text) == ["b.md#part", "d.png", "g.md", "h.svg", "n"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    relative = [link for link in links(page.read_text(encoding="utf-8")) if not re.match(r"[a-z]+:|#|//", link)]
    missing = [link for link in relative if not (page.parent / link.split("#")[0]).exists()]
    assert missing == []
