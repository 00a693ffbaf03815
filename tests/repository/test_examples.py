"""The examples do what their headers say, as programs of their own: on io_uring and on epoll."""

import asyncio
import contextlib
import http.server
import importlib.util
import json
import os
import pathlib
import platform
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import uringloop

from .documents import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())
PATIENCE_S = 60

pytestmark = pytest.mark.slow


@pytest.fixture(params=["io_uring", "epoll"])
def environment(request):
    try:
        uringloop.new_event_loop(request.param).close()
    except uringloop.MonitorUnavailable as error:
        pytest.skip(str(error))
    return {**os.environ, "URINGLOOP_FDMON": request.param, "PYTHONUNBUFFERED": "1"}


def needs(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run(environment, *arguments):
    done = subprocess.run(
        [sys.executable, "-X", "dev", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def started(environment, name, *arguments):
    """A child that is killed at the end if it still runs."""
    child = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    with child:
        try:
            yield child
        finally:
            child.kill()


@contextlib.contextmanager
def running(environment, name, *arguments):
    """A child that Ctrl-C ends, without an error."""
    with started(environment, name, *arguments) as child:
        yield child
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, errors
    assert b"Traceback" not in errors, errors


def line_of(pipe):
    """One line of a child's output; fails instead of waiting for ever."""
    data = b""
    while not data.endswith(b"\n"):
        assert select.select([pipe], [], [], PATIENCE_S)[0], f"no line came, only {data}"
        piece = os.read(pipe.fileno(), 1)
        assert piece, f"the output has ended: {data}"
        data += piece
    return data.decode().rstrip("\n")


def port_in(line):
    return int(re.search(r"(\d+)(?:/| on |$)", line)[1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_has_help(name):
    if name == "gtk_downloader.py" and importlib.util.find_spec("gi") is None:
        pytest.skip("PyGObject is not installed for this Python")
    if name == "dask_workers.py" and importlib.util.find_spec("distributed") is None:
        pytest.skip("not installed: distributed")
    assert run(os.environ, EXAMPLES / name, "--help").startswith(f"usage: {name}")


def test_each_program_is_in_the_list():
    listed = (ROOT / "docs" / "examples.md").read_text()
    assert [name for name in [*PROGRAMS, "notebook.ipynb"] if f"(../examples/{name})" not in listed] == []


@needs("aiohttp")
def test_people_in_a_chat_see_what_the_others_write(environment):
    import aiohttp

    async def chat(port):
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as page:
                assert "new WebSocket" in await page.text()
            async with session.ws_connect(f"{url}/ws") as one:
                assert await one.receive_str() == "1 has come, 1 here"
                async with session.ws_connect(f"{url}/ws") as two:
                    await two.send_str("hello")
                    seen = [await one.receive_str(), await one.receive_str()]
                    assert seen == ["2 has come, 2 here", "2: hello"]
                    assert [await two.receive_str(), await two.receive_str()] == seen
                assert await one.receive_str() == "2 has left"

    with running(environment, "chat_server.py", "--port", 0) as child:
        asyncio.run(asyncio.wait_for(chat(port_in(line_of(child.stdout))), PATIENCE_S))


@contextlib.contextmanager
def web_server(body):
    """Answers each GET with that body and the request's own path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("X-Path", self.path)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def exchange(port, *pieces):
    """What a server answers, to its end."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_proxy_forwards_requests_and_tunnels(environment):
    body = os.urandom(300_000)
    with web_server(body) as origin, running(environment, "http_proxy.py", "--port", 0) as child:
        proxy = port_in(line_of(child.stdout))
        answer = exchange(proxy, f"GET http://127.0.0.1:{origin}/a?b HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"X-Path: /a?b\r\n" in answer
        assert answer.endswith(body)
        answer = exchange(
            proxy, f"CONNECT 127.0.0.1:{origin} HTTP/1.1\r\n\r\n".encode(), b"GET /tunnel HTTP/1.0\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.0 200")
        assert b"X-Path: /tunnel\r\n" in answer
        assert answer.endswith(body)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"CONNECT 127.0.0.1:1 HTTP/1.1", b"502 Bad Gateway"),
        (b"GET /path HTTP/1.1", b"400 Bad Request"),
        (b"GET ftp://127.0.0.1/ HTTP/1.1", b"400 Bad Request"),
        (b"nonsense", b"400 Bad Request"),
        (b"CONNECT 127.0.0.1:port HTTP/1.1", b"400 Bad Request"),
    ],
)
def test_a_proxy_refuses(environment, request_line, status):
    with running(environment, "http_proxy.py", "--port", 0) as child:
        answer = exchange(port_in(line_of(child.stdout)), request_line + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_a_log_shipper_loses_nothing_while_its_receiver_is_away(environment, tmp_path):
    path = tmp_path / "log"
    append(path, "one\ntwo\n")
    with contextlib.ExitStack() as children:
        receiver = children.enter_context(started(environment, "log_shipper.py", "--listen", 0))
        port = port_in(line_of(receiver.stderr))
        shipper = children.enter_context(
            running(environment, "log_shipper.py", "--from-start", "--to", f"127.0.0.1:{port}", path)
        )
        assert [line_of(receiver.stdout) for _ in range(2)] == [f"{path}: one", f"{path}: two"]
        receiver.kill()
        receiver.wait()
        append(path, "three\n")
        assert line_of(shipper.stderr).startswith("no receiver at")
        second = children.enter_context(running(environment, "log_shipper.py", "--listen", port))
        line_of(second.stderr)
        seen = [line_of(second.stdout)]
        while seen[-1] != f"{path}: three":  # a line whose acknowledgement was lost comes twice
            seen.append(line_of(second.stdout))
        assert seen == [f"{path}: {word}" for word in ("one", "two", "three")[-len(seen) :]]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the example needs this CPU's order of writes")
def test_a_queue_in_shared_memory_keeps_messages_whole_and_in_order(environment):
    # more bytes than there is room for, several times over
    output = run(environment, EXAMPLES / "shared_memory_queue.py", "--messages", 20_000, "--bytes", 333)
    assert output.startswith("20,000 messages of 333 bytes")


# Prints the outputs of the cells; an exception in a cell ends it.
@needs("uvicorn", "starlette")
def test_one_application_is_served_by_several_loops(environment):
    with running(environment, "many_loops_asgi.py", "--members", 3, "--port", 0, "--kind", "thread") as child:
        line = line_of(child.stdout)
        assert line.startswith("3 threads serve http://127.0.0.1:")
        for _ in range(6):
            with urllib.request.urlopen(f"http://127.0.0.1:{port_in(line)}/", timeout=PATIENCE_S) as answer:
                assert answer.read() == b"Hello, World!"
        child.send_signal(signal.SIGTERM)
        given = [int(number) for number in line_of(child.stdout).removeprefix("connections: ").split()]
        assert sum(given) == 6
        assert min(given) > 0  # 2 each, unless a member has not yet noticed that its last one was closed


def page(port, path="/"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
        return answer.read().decode()


def samples(port):
    """{name and labels: value} of what is served at /metrics."""
    lines = page(port, "/metrics").splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def of_loop(environment, name, *labels):
    """The key of a sample of the first loop."""
    inner = ",".join(
        sorted(['asyncio_eventloop_id="0"', f'uringloop_fdmon="{environment["URINGLOOP_FDMON"]}"', *labels])
    )
    return f"{name}{{{inner}}}"


@needs("uvicorn", "starlette", "prometheus_client")
def test_the_metrics_of_uvicorns_loop_are_served_on_a_port_of_their_own(environment):
    with running(environment, "metrics_uvicorn.py", "--port", 0, "--metrics-port", 0) as child:
        port, metrics_port = re.findall(r":(\d+)/", line_of(child.stdout))
        connections = of_loop(environment, "asyncio_transport_connections_total")
        received = of_loop(environment, "asyncio_transport_io_bytes_total", 'network_io_direction="receive"')
        assert page(port) == "Hello, World!"  # its loop is there from now on
        before = samples(metrics_port)
        assert page(port) == "Hello, World!"
        after = samples(metrics_port)
        assert after[connections] == before[connections] + 1
        assert after[received] > before[received]


@needs("aiohttp", "prometheus_client")
def test_an_aiohttp_application_serves_the_metrics_of_its_loop_and_logs_summaries(environment):
    with running(environment, "metrics_aiohttp.py", "--port", 0, "--interval", 0.05) as child:
        port = port_in(line_of(child.stdout))
        assert page(port) == "Hello, World!"
        found = samples(port)
        assert found[of_loop(environment, "asyncio_transport_connections_total")] == 2
        assert found[of_loop(environment, "asyncio_eventloop_turns_total")] > 2
        line = line_of(child.stderr)
        while not line.startswith("loop 0:"):  # those of asyncio's debug mode
            line = line_of(child.stderr)
        assert re.match(r"loop 0: .* % used, .* turns/s, .* kB/s out$", line)


@contextlib.contextmanager
def gunicorn(environment, ports, home):
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        str(EXAMPLES / "metrics_gunicorn.py"),
        "starlette_app:app",
    ]
    environment = {
        **environment,
        "BIND": f"127.0.0.1:{ports[0]}",
        "METRICS_PORTS": f"{ports[1]},{ports[2]}",
        "HOME": str(home),  # it has a socket there
    }
    with open(home / "log", "wb") as log, subprocess.Popen(command, env=environment, stderr=log) as child:
        try:
            yield child
        finally:
            child.terminate()
            child.wait(PATIENCE_S)


def eventually(call):
    """The first result of call() that is true; while it is not, or the connection is refused, it is called again."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            if result := call():
                return result
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def pids_of_two(log):
    """The process IDs of the workers that have started; an empty list until there are two."""
    pids = re.findall(r"Started server process \[(\d+)\]", log.read_text())
    return pids if len(pids) == 2 else []


@needs("gunicorn", "uvicorn", "uvicorn_worker", "starlette", "prometheus_client")
def test_each_worker_of_gunicorn_serves_the_metrics_of_its_loop(environment, tmp_path):
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [one.getsockname()[1] for one in taken]
    connections = of_loop(environment, "asyncio_transport_connections_total")
    with gunicorn(environment, ports, tmp_path):
        assert eventually(lambda: page(ports[0])) == "Hello, World!"
        for port in ports[1:]:
            eventually(lambda port=port: samples(port)[connections] >= 0)
        for _ in range(20):
            assert page(ports[0]) == "Hello, World!"
        counts = [samples(port)[connections] for port in ports[1:]]
        assert sum(counts) == 21
        started = "process_start_time_seconds"
        before = samples(ports[1])[started]
        for pid in eventually(lambda: pids_of_two(tmp_path / "log")):
            os.kill(int(pid), signal.SIGKILL)
        assert eventually(lambda: samples(ports[1])[started] > before)  # a new worker has taken the port


# By UNIX sockets: the ports that Jupyter chooses may be those of another test when the kernel binds them, or, worse,
# when the client connects.
NOTEBOOK = """
import jupyter_client, nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], 4)
manager = jupyter_client.AsyncKernelManager(kernel_name="python3", transport="ipc", ip=sys.argv[2])
nbclient.NotebookClient(notebook, timeout=60, km=manager).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output["data"]["text/plain"])
"""


@needs("nbclient", "ipykernel")
def test_the_notebook_runs_on_the_loop_of_its_kernel(environment, tmp_path):
    config = tmp_path / "profile_default" / "ipython_kernel_config.py"
    config.parent.mkdir()
    config.write_text("import uringloop.adopt\nuringloop.adopt.make_default()\n")
    environment["IPYTHONDIR"] = str(tmp_path)
    outputs = run(environment, "-c", NOTEBOOK, EXAMPLES / "notebook.ipynb", tmp_path / "kernel").splitlines()
    assert outputs[0] == repr(environment["URINGLOOP_FDMON"])
    assert outputs[1:4] == ["(100, 'NUMBER 42')", repr(os_release_key()), "'done'"]


def os_release_key():
    return pathlib.Path("/etc/os-release").read_text().split("=")[0]


def test_the_notebook_is_committed_without_outputs():
    for cell in json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@needs("distributed")
def test_dask_workers_and_scheduler_run_on_the_loop(environment, tmp_path):
    for name, text in (("one", "a b a"), ("two", "a c c")):
        (tmp_path / name).write_text(text)
    lines = run(environment, EXAMPLES / "dask_workers.py", tmp_path / "one", tmp_path / "two").splitlines()
    loop = f"uringloop.eventloop.loop, {environment['URINGLOOP_FDMON']}"
    assert lines[:3] == [f"scheduler: {loop}", f"worker 0: {loop}", f"worker 1: {loop}"]
    assert lines[3:] == [f"{3:8} a", f"{2:8} c", f"{1:8} b"]
