"""Real servers and clients on the loop under test; run by `python -m tests.conformance smoke` only."""

import contextlib
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

BIN = pathlib.Path(sys.executable).parent
HERE = pathlib.Path(__file__).parent


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def end(process, number=signal.SIGTERM, seconds=15):
    """End a process (group) that a test started; returns its status."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        return process.wait(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_listening(port, process, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"the server ended at once with status {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.05)


@contextlib.contextmanager
def running(command, port, *, ends_by=signal.SIGTERM, statuses=(0,)):
    """A server, from its first connection to its orderly end."""
    command = [str(part).replace("PORT", str(port)) for part in command]
    process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until_listening(port, process)
        yield process
    except BaseException:
        end(process, signal.SIGKILL)
        raise
    status = end(process, ends_by)
    assert status in statuses, f"the server ended with status {status}"


def load(port, *, clients=8, requests=250, want=b"hello"):
    """Send many requests over a few persistent connections; each must be answered."""
    failures = []

    def client():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            for _ in range(requests):
                connection.request("GET", "/")
                with connection.getresponse() as answer:
                    assert answer.status == 200
                    assert answer.read() == want
            connection.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [
        program,
        "--port",
        "PORT",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        folder,
        "--loglevel",
        "warning",
    ]
    with running(command, port):
        yield port


@pytest.fixture(scope="session")
def postgres():
    """Arguments for connect() to a private database cluster."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")
    # Not in pytest's folders, which only root can read: as root, PostgreSQL has to run as another user.
    with tempfile.TemporaryDirectory(prefix="smoke-postgres-") as folder:
        user = []
        if os.geteuid() == 0:
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(folder, "postgres", "postgres")
        with running_postgres(user, pathlib.Path(initdb).resolve(), folder) as arguments:
            yield arguments


@contextlib.contextmanager
def running_postgres(user, initdb, folder):
    data, port = f"{folder}/data", free_port()
    make = [
        *user,
        initdb,
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]
    subprocess.run(make, check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    serve = [*user, initdb.parent / "postgres", "-D", data, "-p", "PORT", "-k", folder]
    serve += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "log_min_messages=fatal"]
    with running(serve, port, ends_by=signal.SIGINT):
        yield {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}
