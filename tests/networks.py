"""Networks of processes: commands in them, and ports that lead into them."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from contextlib import suppress


def ip(process: int, commands: list[str]) -> None:
    """Runs commands of ``ip`` in a process's network."""
    command = ["nsenter", "--target", str(process), "--net", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(commands), capture_output=True, text=True)
    assert done.returncode == 0, f"{commands}: {done.stderr}"


def published(hub: int, address: str, port: int) -> socket.socket:
    """A free port of 127.0.0.1 that leads to an address in the containers' networks, until it is shut down."""
    listening = socket.create_server(("127.0.0.1", 0))
    space = os.open(f"/proc/{hub}/ns/net", os.O_RDONLY)

    def serve() -> None:
        assert ctypes.CDLL(None).setns(space, 0x40000000) == 0  # this thread's network: CLONE_NEWNET
        os.close(space)
        with suppress(OSError), listening:
            while True:
                near, _ = listening.accept()
                try:
                    far = socket.create_connection((address, port), timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                threading.Thread(target=join, args=(near, far), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listening


def join(near: socket.socket, far: socket.socket) -> None:
    """Passes on what arrives at each of two ends, until one of them is closed."""
    with near, far:
        back = threading.Thread(target=pump, args=(far, near), daemon=True)
        back.start()
        pump(near, far)
        back.join()


def pump(one: socket.socket, other: socket.socket) -> None:
    """Passes on what arrives at one end, until it is closed; then closes both."""
    with suppress(OSError):
        while data := one.recv(65_536):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
