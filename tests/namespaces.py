"""Hosts on one machine: network namespaces on a bridge, each with an address of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_namespaces = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need Linux, root and the command ip",
)


def ip(command: str) -> None:
    """Runs a command of iproute2."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[list[str]]]]:
    """The address of this machine on the bridge, and for each host what a command is preceded by to run there."""
    tag, net = f"aw{os.getpid()}", f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 256}"
    names = [f"{tag}h{number}" for number in range(count)]
    ip(f"link add {tag} type bridge")
    try:
        ip(f"addr add {net}.1/24 dev {tag}")
        ip(f"link set {tag} up")
        for number, name in enumerate(names):
            ip(f"netns add {name}")
            ip(f"link add {name} type veth peer name eth0 netns {name}")
            ip(f"link set {name} master {tag} up")
            ip(f"-n {name} addr add {net}.{number + 2}/24 dev eth0")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} link set lo up")
        yield f"{net}.1", [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        ip(f"link del {tag}")
