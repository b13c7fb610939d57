"""Makes docs/images/terminal.png: a study as a terminal shows it. Needs tmux, and Debian's chromium.

python docs/terminal_screenshot.py                            # 100 columns, dark, while it runs and at its end
python docs/terminal_screenshot.py --columns 80 --light --to narrow.png
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parent.parent
LIGHT = TerminalTheme(
    (255, 255, 255),
    (40, 40, 40),
    [(0, 0, 0), (205, 0, 0), (0, 135, 0), (150, 120, 0), (0, 0, 238), (160, 0, 160), (0, 135, 135), (190, 190, 190)],
    [(127, 127, 127), (255, 0, 0), (0, 160, 0), (170, 140, 0), (92, 92, 255), (255, 0, 255), (0, 160, 160), (0, 0, 0)],
)
"""Black on white, as terminals have it: rich's own is not white."""

ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PS1": "$ "}


class Terminal:
    """A shell in tmux, which is a terminal without a window."""

    def __init__(self, socket: str, columns: int, rows: int) -> None:
        self._tmux = ["tmux", "-f", "/dev/null", "-S", socket]
        environment = os.environ | ENVIRONMENT
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        size = ["-x", str(columns), "-y", str(rows)]
        shell = ["bash", "--noprofile", "--norc"]
        command = [*self._tmux, "new-session", "-d", *size, *shell]
        subprocess.run(command, env=environment | {"PATH": path}, cwd=ROOT, check=True)

    def type(self, text: str) -> None:
        """Types a line."""
        subprocess.run([*self._tmux, "send-keys", text, "Enter"], check=True)

    def seen(self) -> str:
        """What is on the screen, with its colours as escape codes."""
        done = subprocess.run([*self._tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True)
        return done.stdout.rstrip()

    def wait_for(self, pattern: str, limit_s: float = 900.0) -> str:
        """What is on the screen once it shows the pattern."""
        end = time.monotonic() + limit_s
        while not re.search(pattern, seen := self.seen()):
            if time.monotonic() > end:
                raise TimeoutError(f"{pattern!r} is not on the screen: {seen}")
            time.sleep(0.2)
        return seen

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=True)


@contextmanager
def terminal(columns: int, rows: int) -> Iterator[Terminal]:
    """A terminal of that size."""
    with TemporaryDirectory() as folder:
        shown = Terminal(f"{folder}/tmux", columns, rows)
        try:
            yield shown
        finally:
            shown.close()


def captures(columns: int) -> list[str]:
    """A study of examples/digits.py: while it runs, and at its end."""
    with TemporaryDirectory() as folder, terminal(columns, 30) as shown:
        shown.wait_for(r"\$")
        shown.type("clear")
        shown.type(f"autowarmup tune examples/digits.py:task --steps 100 --study {folder}/digits")
        running = shown.wait_for(r"best so far: .*loss [\s\S]*(pruned|unstable)")
        ended = shown.wait_for(r"trials: .*autowarmup show")
        return [screen.replace(folder, "studies") for screen in (running, ended)]


def svg(screens: list[str], columns: int, light: bool) -> str:
    """The screens as one picture, one below the other."""
    console = Console(record=True, width=columns, file=open(os.devnull, "w"))  # noqa: SIM115
    for screen in screens:
        console.print(Text.from_ansi(screen), soft_wrap=True)
        console.print()
    return console.export_svg(title="autowarmup", theme=LIGHT if light else SVG_EXPORT_THEME)


def png(picture: str, to: Path) -> None:
    """An SVG as PNG, by Chromium."""
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)[0])
    with TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(f"<style>body{{margin:0}} svg{{display:block;width:{width}px}}</style>{picture}", "utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--screenshot={to.absolute()}"]
        command += [f"--window-size={round(width)},{round(height)}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--light", action="store_true", help="black on white")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images" / "terminal.png")
    options = parser.parse_args()
    png(svg(captures(options.columns), options.columns, options.light), options.to)


if __name__ == "__main__":
    main()
