"""The process that speaks to MLflow: one pass, or passes for as long as the study's driver lives."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from autowarmup.study.delivery import Delivery
from autowarmup.study.lock import is_locked
from autowarmup.tracking.syncer import Syncer

POLL_S = 0.5
LONGEST_RETRY_S = 30.0
REST = 4.0
LONGEST_REST_S = 5.0
"""After a pass, rest for a multiple of its duration, up to this: a large study costs its machine little."""


def main() -> None:
    """``FOLDER [DRIVER]``: one pass, or passes for as long as the process DRIVER lives. The URI comes in
    ``MLFLOW_TRACKING_URI``; each pass's delivery goes to standard output as a line of JSON."""
    folder, uri = Path(sys.argv[1]), os.environ["MLFLOW_TRACKING_URI"]
    reports = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(delivery: Delivery) -> None:
        if delivery.error:
            sys.stderr.write(f"{time.strftime('%F %T')} {delivery.error}\n")
        with suppress(BrokenPipeError):
            os.write(reports, delivery.model_dump_json().encode() + b"\n")

    syncer = Syncer(folder, uri)
    if len(sys.argv) == 2:
        report(syncer.attempt(driven=is_locked(folder)))
    else:
        os.nice(10)
        _follow(syncer, int(sys.argv[2]), report)


def _follow(syncer: Syncer, driver: int, report: Callable[[Delivery], None]) -> None:
    """Passes while the driver lives, then a last one."""
    seen, due, pause = -1, 0.0, 1.0
    driven, failed = True, False
    while driven:
        driven = not _stopped(driver)
        version = syncer.overview.version()
        if driven and (time.monotonic() < due or not (failed or version != seen)):
            continue
        began = time.monotonic()
        delivery = syncer.attempt(driven)
        report(delivery)
        seen, failed = version, delivery.error is not None
        ended = time.monotonic()
        pause = min(2.0 * pause, LONGEST_RETRY_S) if failed else 1.0
        due = ended + (pause if failed else min(REST * (ended - began), LONGEST_REST_S))


def _stopped(driver: int) -> bool:
    """Waits a moment for a word on standard input, its end or the driver's."""
    told, _, _ = select.select([sys.stdin], [], [], POLL_S)
    return bool(told) or os.getppid() != driver
