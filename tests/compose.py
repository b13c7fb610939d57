"""What a compose file says, as processes: each container has its own network, mounts, processes and host name, on
bridges that stand for the compose file's networks. All of it ends with the process that started it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import yaml

from tests.networks import ip, published

ROOT = Path(__file__).parent.parent
UID = 10_001
"""The user of the project's image."""

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount", "hostname", "postgres", "initdb", "pg_isready", "pg_dump")
UNSHARE = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
EMPTY = ("/srv", "/var/lib", "/home", "/root", "/opt", "/dev/shm", "/tmp")
"""Folders of this machine that no container sees."""

KEPT = (Path(sys.base_prefix), Path(sys.prefix), ROOT)
"""What the image has of its own: Python, the installed packages and the code."""

POSTGRES = """
install -d -o postgres /run/postgresql
if [ ! -s /var/lib/postgresql/data/PG_VERSION ]; then
    install -m 0600 -o postgres "$POSTGRES_PASSWORD_FILE" /run/pwfile
    chown postgres /var/lib/postgresql/data && chmod 0700 /var/lib/postgresql/data
    {user} initdb --no-sync --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile=/run/pwfile --auth-local=trust \\
        --auth-host=scram-sha-256 /var/lib/postgresql/data
    echo "host all all all scram-sha-256" >>/var/lib/postgresql/data/pg_hba.conf
    echo "CREATE DATABASE $POSTGRES_DB" | {user} postgres --single -D /var/lib/postgresql/data postgres
fi
"""
"""What the entry point of PostgreSQL's image does before it starts the server, as its documentation says."""


def missing() -> str | None:
    """Why containers can't be had here; None if they can."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/srv"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"namespaces can't be made here: {tried.stderr.strip()}"


class Container:
    """One container: what a service of the compose file says, under a name of its own."""

    def __init__(self, name: str, service: str, said: dict[str, Any], addresses: dict[str, str]) -> None:
        self.name, self.service, self.said, self.addresses = name, service, said, addresses
        self.user = "postgres" if said["image"].startswith("postgres:") else str(UID)
        self.process: subprocess.Popen[bytes] | None = None
        self.init = 0

    @property
    def environment(self) -> dict[str, str]:
        given = {name: str(value) for name, value in (self.said.get("environment") or {}).items()}
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        image = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": "/home/autowarmup"}
        return image | {"PYTHONDONTWRITEBYTECODE": "1"} | given

    def as_user(self) -> list[str]:
        user = ["setpriv", "--reuid", self.user, "--regid", self.user, "--clear-groups", "--no-new-privs"]
        return [*user, "--bounding-set=-all", "--inh-caps=-all"]

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """Ends all of its processes at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
            self.process.wait()

    def terminate(self) -> None:
        """Asks it to end."""
        if self.runs():
            os.kill(self.init, signal.SIGTERM)

    def entered(self, command: list[str], **how: Any) -> subprocess.CompletedProcess[Any]:
        """Runs a command in it, as ``docker compose exec`` does."""
        inside = ["nsenter", "--target", str(self.init), "--all", "--wdns=/home/autowarmup"]
        return subprocess.run([*inside, *self.as_user(), *command], env=self.environment, **how)

    def healthy(self) -> bool:
        """Whether its health check passes; without one, whether it runs."""
        if not self.runs() or "healthcheck" not in self.said:
            return self.runs()
        kind, *command = self.said["healthcheck"]["test"]
        assert kind == "CMD"
        return self.entered(command, capture_output=True).returncode == 0


class Stack:
    """The containers of a compose file, and its volumes.

    Args:
        compose: the compose file.
        folder: keeps the volumes, the containers' logs, and a copy of the compose file's folder with its secrets.
        variables: what the compose file's ``${...}`` mean.
    """

    def __init__(self, compose: Path, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.base = folder / "docker"
        shutil.copytree(compose.parent, self.base, ignore=shutil.ignore_patterns("secrets", ".env"))
        subprocess.run([self.base / "secrets.sh"], check=True)
        self.said = interpolated(yaml.safe_load(compose.read_text(encoding="utf-8")), variables)
        self.networks = list(self.said["networks"])
        self.ports: dict[int, int] = {}
        self.containers: dict[str, Container] = {}
        self._links, self._listening = 0, list[socket.socket]()
        for service, said in self.said["services"].items():
            copies = said.get("deploy", {}).get("replicas", 1)
            for copy in range(1, copies + 1):
                self._add(f"{service}-{copy}" if copies > 1 else service, service, said)

    def _add(self, name: str, service: str, said: dict[str, Any]) -> Container:
        host = len(self.containers) + 2
        where = {net: f"10.87.{self.networks.index(net)}.{host}" for net in said["networks"]}
        self.containers[name] = Container(name, service, said, where)
        return self.containers[name]

    def __enter__(self) -> Self:
        hub = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo up; exec sleep infinity"]
        self._hub = subprocess.Popen(hub, stdout=subprocess.PIPE)
        assert self._hub.stdout is not None
        assert self._hub.stdout.readline() == b"up\n"
        bridges = ["link set lo up"]
        for number, network in enumerate(self.networks):
            bridges += [f"link add {network} type bridge", f"addr add 10.87.{number}.1/24 dev {network}"]
            bridges += [f"link set {network} up"]
        ip(self._hub.pid, bridges)
        for service, said in self.said["services"].items():
            for port in said.get("ports", ()):
                inner = int(port.rpartition(":")[2])
                address = next(iter(self.of(service)[0].addresses.values()))
                self._listening.append(published(self._hub.pid, address, inner))
                self.ports[inner] = self._listening[-1].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        for listening in self._listening:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
        for container in self.containers.values():
            container.kill()
        self._hub.kill()
        self._hub.communicate()

    def of(self, service: str) -> list[Container]:
        """The containers of a service."""
        return [found for found in self.containers.values() if found.service == service]

    def log(self, name: str) -> str:
        """What a container wrote."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def up(self, *services: str, profile: str | None = None, within_s: float = 150) -> None:
        """Starts services and those that they depend on, in the order of the conditions, and waits until all are
        healthy. Containers that have ended are started again. None named: all of the profile."""
        wanted = self._needed(services or [
            name for name, said in self.said["services"].items() if set(said.get("profiles", ())) <= {profile}
        ])  # fmt: skip
        waiting = [found for name in wanted for found in self.of(name)]
        self.wait(lambda: self._further(waiting), within_s, "not healthy", lambda: [found.name for found in waiting])

    def _further(self, waiting: list[Container]) -> bool:
        """Starts what may be started, and takes what is healthy from the list. Returns whether that was all."""
        for container in list(waiting):
            blocked = {found.service for found in waiting} & set(container.said.get("depends_on", ()))
            if not blocked and not container.runs():
                self.start(container)
            elif not blocked and container.healthy():
                waiting.remove(container)
        return not waiting

    def _needed(self, services: Iterable[str]) -> list[str]:
        found: list[str] = []
        for name in services:
            before = self._needed(self.said["services"][name].get("depends_on", ()))
            found += [other for other in [*before, name] if other not in found]
        return found

    def wait(self, done: Callable[[], bool], within_s: float, problem: str, what: Callable[[], object]) -> None:
        """Waits until something is so; if it takes too long, the error shows the ends of the logs."""
        end = time.monotonic() + within_s
        while not done():
            if time.monotonic() > end:
                logs = [
                    f"--- {path.stem}\n{path.read_text(errors='replace')[-1500:]}" for path in self.folder.glob("*.log")
                ]
                raise AssertionError(f"{problem}: {what()}\n" + "\n".join(logs))
            time.sleep(0.5)

    def mend(self) -> None:
        """Starts the containers again that have ended by themselves, as their restart policies say."""
        for container in self.containers.values():
            ended = container.process is not None and container.process.poll()
            if ended if container.said["restart"] == "on-failure" else container.process and not container.runs():
                self.start(container)

    def start(self, container: Container, command: list[str] | None = None, **how: Any) -> None:
        """Starts a container; with ``command``, with that instead of its own."""
        script = self.folder / f"{container.name}.sh"
        script.write_text(self._script(container, command))
        with (self.folder / f"{container.name}.log").open("ab") as log:
            container.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *UNSHARE, "sh", "-eu", str(script)],
                stdin=subprocess.PIPE,
                stdout=how.get("stdout") or log,
                stderr=log,
                env=container.environment,
            )
        container.init = only_child(container.process)
        for network, address in container.addresses.items():
            self._links += 1
            end = f"link{self._links}"
            ip(
                self._hub.pid,
                [
                    f"link add {end} type veth peer name {network} netns {container.init}",
                    f"link set {end} master {network} up",
                ],
            )
            ip(container.init, [f"addr add {address}/24 dev {network}", f"link set {network} up"])
        ip(container.init, ["link set lo up"])
        assert container.process.stdin is not None
        with suppress(BrokenPipeError):
            container.process.stdin.write(b"go\n")
            container.process.stdin.flush()
            if (given := how.get("stdin")) is not None:
                shutil.copyfileobj(given, container.process.stdin)
            container.process.stdin.close()

    def _script(self, container: Container, command: list[str] | None) -> str:
        """What the container's first process does: mounts, then the image's entry point."""
        said, image_s = container.said, container.user == str(UID)
        mounts = [(path, str(path), "") for path in KEPT]
        mounts += [(self._hosts(container), "/etc/hosts", "")]
        for volume in said.get("volumes", ()):
            source, target, *mode = volume.split(":")
            mounts += [(self._source(source, container), target, "ro" if mode == ["ro"] else "")]
        lines = [
            "read -r go",
            f"hostname {container.name}",
            "mount -t tmpfs none /run",
            "mkdir -p /run/secrets /run/kept",
        ]
        for name in said.get("secrets", ()):
            file = self.base / self.said["secrets"][name]["file"]
            lines += [f"install -m 0600 -o {container.user} {file} /run/secrets/{name}"]
        for number, (source, _, _) in enumerate([*mounts, (self.base, "", "")]):
            kept = f"/run/kept/{number}"
            lines += [f"if [ -d {source} ]; then mkdir {kept}; else : >{kept}; fi; mount --rbind {source} {kept}"]
        lines += [f"mount -t tmpfs none {path}" for path in EMPTY]
        for number, (_, target, mode) in enumerate(mounts):
            there = "true" if target == "/etc/hosts" else f"mkdir -p {target}"
            lines += [f"{there}; mount --rbind /run/kept/{number} {target}"]
            lines += [f"mount -o remount,bind,ro {target}"] * (mode == "ro")
        lines += ["mkdir -p /opt/docker", f"cp /run/kept/{len(mounts)}/*.* /opt/docker/", "umount -l /run/kept/*"]
        lines += [f"install -d -o {container.user} /home/autowarmup", "chmod 1777 /tmp /dev/shm", "cd /home/autowarmup"]
        user = shlex.join(container.as_user())
        if image_s:
            command = command or shlex.split(said["command"])
            lines += [f"exec 3<&0; {user} {shlex.join(['/opt/docker/entrypoint.sh', *command])} <&3 & child=$!"]
        else:
            lines += [POSTGRES.format(user=user)]
            lines += [f"{user} postgres -D /var/lib/postgresql/data -c listen_addresses='*' & child=$!"]
        return "\n".join([*lines, "trap 'kill -TERM $child' TERM", "wait $child || true", "wait $child", ""])

    def _source(self, source: str, container: Container) -> Path:
        """What is mounted: a folder, or a named volume, which belongs to the image's user."""
        if source.startswith((".", "/")):
            return (self.base / source).resolve()
        assert source in self.said["volumes"]
        folder = self.folder / "volumes" / source
        if not folder.exists():
            folder.mkdir(parents=True)
            shutil.chown(folder, container.user if not container.user.isdigit() else int(container.user))
        return folder

    def _hosts(self, container: Container) -> Path:
        """The names that it knows: its own, and those of its networks' containers."""
        lines = ["127.0.0.1 localhost", f"{next(iter(container.addresses.values()))} {container.name}"]
        for other in self.containers.values():
            for network in container.addresses.keys() & other.addresses.keys():
                lines += [f"{other.addresses[network]} {other.service} {other.name}"] * (other is not container)
        file = self.folder / f"{container.name}.hosts"
        file.write_text("\n".join([*lines, ""]))
        return file

    def compose(self, line: str) -> None:
        """Does what a line of a shell with ``docker compose`` does: up, stop, start, exec, run or down."""
        words = shlex.split(line)
        given: dict[str, IO[bytes]] = {}
        for mark, name, mode in (("<", "stdin", "rb"), (">", "stdout", "wb")):
            if mark in words:
                place = words.index(mark)
                given[name] = (self.folder / words[place + 1]).open(mode)
                del words[place : place + 2]
        assert words[:2] == ["docker", "compose"], line
        what, words = words[2], words[3:]
        while words and words[0].startswith("-"):
            words.pop(0)
        if what == "up":
            self.up(*words)
        elif what in ("stop", "down"):
            self._stop([one for one in self.containers.values() if one.service in words or what == "down"])
            if what == "down" and "--volumes" in line:
                shutil.rmtree(self.folder / "volumes")
        elif what == "exec":
            self.of(words[0])[0].entered(words[1:], check=True, **given)
        elif what == "run":
            self._run(words[0], words[1:], given)
        else:
            raise AssertionError(line)
        for file in given.values():
            file.close()

    def _stop(self, containers: list[Container]) -> None:
        """Asks them all to end, and kills those that haven't after ten seconds."""
        for container in containers:
            container.terminate()
        end = time.monotonic() + 10
        while any(container.runs() for container in containers) and time.monotonic() < end:
            time.sleep(0.1)
        for container in containers:
            container.kill()
            container.process = None

    def _run(self, service: str, command: list[str], given: dict[str, IO[bytes]]) -> None:
        once = self._add(f"{service}-run-{len(self.containers)}", service, self.said["services"][service])
        try:
            self.start(once, command, **given)
            assert once.process is not None
            assert once.process.wait(60) == 0, self.log(once.name)
        finally:
            once.kill()
            del self.containers[once.name]


def interpolated(said: Any, variables: dict[str, str]) -> Any:
    """The same with ``${NAME:-default}`` replaced."""
    if isinstance(said, dict):
        return {name: interpolated(value, variables) for name, value in said.items()}
    if isinstance(said, list):
        return [interpolated(value, variables) for value in said]
    if isinstance(said, str):
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), said)
    return said


def only_child(process: subprocess.Popen[bytes]) -> int:
    """The first process of a container, once it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        assert process.poll() is None, "the container has ended"
        time.sleep(0.01)
    return int(found[0])
