"""Servers that client libraries talk to: Debian's, on free loopback ports, with their data in a temporary folder.

Each is started once, when the first row needs it, and ended by its process id.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from .running import free_port

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30


class ServiceMissing(Exception):
    """A server that is not installed, or does not start."""


def program(name: str, package: str, *folders: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin", *folders]))
    if found is None:
        raise ServiceMissing(f"{name} is not installed (Debian: {package})")
    return found


class Services:
    """What is running; `settings(name)` starts a service if it is not, and returns environment variables."""

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="services-"))
        self.folder.chmod(0o755)  # some drop root's rights
        self.running: dict[str, dict[str, str] | ServiceMissing] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.lock = threading.Lock()

    def settings(self, names: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        with self.lock:
            for name in names:
                if name not in self.running:
                    try:
                        self.running[name] = STARTERS[name](self)
                    except ServiceMissing as missing:
                        self.running[name] = missing
                settings = self.running[name]
                if isinstance(settings, ServiceMissing):
                    raise settings
                found |= settings
        return found

    def start(self, name: str, command: list[str], port: int, *, ready: str = "", **options: object) -> None:
        """Start it, and wait until it accepts connections and its output has the text `ready`."""
        folder = self.folder_of(name)
        with (folder / "output").open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, **options
            )
        self.processes.append(process)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (accepts(port) and ready in (folder / "output").read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                text = (folder / "output").read_text(errors="replace")
                raise ServiceMissing(f"{name} does not start: {text[-800:]}")
            time.sleep(0.05)

    def folder_of(self, name: str) -> pathlib.Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def prepare(self, name: str, command: list[str], **options: object) -> None:
        """Run a command that makes a service's data."""
        done = subprocess.run(
            command,
            cwd=self.folder_of(name),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        if done.returncode != 0:
            raise ServiceMissing(f"{command[0]}: {done.stdout[-400:]}{done.stderr[-400:]}")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def redis(services: Services) -> dict[str, str]:
    port = free_port()
    command = [
        program("redis-server", "redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]
    services.start("redis", command, port)
    return {"REDIS_PORT": str(port), "REDIS_URL": f"redis://127.0.0.1:{port}"}


def memcached(services: Services) -> dict[str, str]:
    port = free_port()
    command = [program("memcached", "memcached"), "-p", str(port), "-l", "127.0.0.1", "-I", "2m"]
    services.start("memcached", [*command, *(["-u", "memcache"] if os.geteuid() == 0 else [])], port)
    return {"MEMCACHED_PORT": str(port)}


def nats(services: Services) -> dict[str, str]:
    port = free_port()
    services.start("nats", [program("nats-server", "nats-server"), "-a", "127.0.0.1", "-p", str(port)], port)
    return {"NATS_URL": f"nats://127.0.0.1:{port}"}


def mosquitto(services: Services) -> dict[str, str]:
    port = free_port()
    configuration = services.folder_of("mosquitto") / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
    services.start("mosquitto", [program("mosquitto", "mosquitto"), "-c", str(configuration)], port)
    return {"MQTT_PORT": str(port)}


def postgresql(services: Services) -> dict[str, str]:
    """It refuses to run as root."""
    folders = [str(path) for path in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb = program("initdb", "postgresql", *folders)
    server = str(pathlib.Path(initdb).with_name("postgres"))
    folder, port = services.folder_of("postgresql"), free_port()
    options: dict[str, object] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = str(folder / "data")
    services.prepare(
        "postgresql", [initdb, "-D", data, "-U", "loop", "-A", "trust", "-N", "-E", "UTF8"], **options
    )
    command = [server, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    services.start("postgresql", command, port, **options)
    return {"POSTGRES_PORT": str(port)}


def mariadb(services: Services) -> dict[str, str]:
    folder, port = services.folder_of("mariadb"), free_port()
    data = str(folder / "data")
    user = ["--user=root"] if os.geteuid() == 0 else []
    services.prepare(
        "mariadb",
        [
            program("mariadb-install-db", "mariadb-server"),
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *user,
        ],
    )
    command = [program("mariadbd", "mariadb-server"), "--no-defaults", f"--datadir={data}", *user]
    command += [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", "--bind-address=127.0.0.1"]
    services.start("mariadb", [*command, f"--port={port}"], port)
    return {"MYSQL_PORT": str(port)}


def rabbitmq(services: Services) -> dict[str, str]:
    """With an epmd of its own, which the server would leave running otherwise."""
    folder, port, distribution, epmd = services.folder_of("rabbitmq"), free_port(), free_port(), free_port()
    server = program("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin")
    settings = {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "loop@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    services.start("rabbitmq", [program("epmd", "erlang-base"), "-address", "127.0.0.1"], epmd, env=settings)
    scripts = sorted(pathlib.Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"))
    services.start(
        "rabbitmq", [str(scripts[-1]) if scripts else server], port, ready="completed with", env=settings
    )
    return {"AMQP_URL": f"amqp://guest:guest@127.0.0.1:{port}/"}


STARTERS: dict[str, Callable[[Services], dict[str, str]]] = {
    "redis": redis,
    "memcached": memcached,
    "nats": nats,
    "mosquitto": mosquitto,
    "postgresql": postgresql,
    "mariadb": mariadb,
    "rabbitmq": rabbitmq,
}

if __name__ == "__main__":
    own = Services()
    try:
        for name in sys.argv[1:] or STARTERS:
            started = time.monotonic()
            print(name, own.settings([name]), f"{time.monotonic() - started:.1f} s", flush=True)
    finally:
        own.close()
