"""Child processes."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from support.helpers import STOCK, monitor_of, turns, until

PYTHON = sys.executable
PIPE = asyncio.subprocess.PIPE


def python(source, **kwargs):
    return asyncio.create_subprocess_exec(PYTHON, "-S", "-c", source, **kwargs)


async def finish(process):
    """Wait for the process and for the end of all its pipes, so that nothing of it is left."""
    await process.wait()
    process._transport.close()
    await all_reported()


async def all_reported():
    """Wait until the pipes and the threads in which asyncio waits for children on Python 3.11 have ended."""
    await turns(20)
    await until(lambda: not any("waitpid" in thread.name for thread in threading.enumerate()))
    await turns(5)


async def test_exit_status_is_returned():
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
    assert await process.wait() == 7
    assert process.returncode == 7
    await finish(process)


async def test_communicate_sends_and_collects():
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
    out, err = await process.communicate(b"through cat")
    assert out == b"through cat"
    assert err is None
    assert process.returncode == 0
    await finish(process)


async def test_a_megabyte_goes_through_a_child():
    data = os.urandom(1 << 20)
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
    out, _ = await process.communicate(data)
    assert out == data
    await finish(process)


async def test_shell_commands_run_in_a_shell():
    process = await asyncio.create_subprocess_shell(
        "echo out; echo err >&2; exit 3", stdout=PIPE, stderr=PIPE
    )
    assert await process.communicate() == (b"out\n", b"err\n")
    assert process.returncode == 3
    await finish(process)


async def test_stderr_can_be_joined_with_stdout():
    process = await asyncio.create_subprocess_shell(
        "echo out; echo err >&2", stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert await process.communicate() == (b"out\nerr\n", None)
    await finish(process)


async def test_signals_end_a_child_with_a_negative_status():
    for name, number in (("kill", signal.SIGKILL), ("terminate", signal.SIGTERM)):
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE)
        getattr(process, name)()
        assert await process.wait() == -number
        await finish(process)


async def test_send_signal_reaches_the_child():
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "trap 'echo caught; exit 0' USR1; echo ready; read x", stdin=PIPE, stdout=PIPE
    )
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    process.stdin.close()  # so that shells continue that first wait in the built-in `read`
    assert await process.stdout.readline() == b"caught\n"
    await finish(process)


async def test_signals_to_a_process_that_ended_raise_process_lookup_error():
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()
    await finish(process)
    with pytest.raises(ProcessLookupError):
        process.kill()


async def test_missing_program_raises_file_not_found():
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("/nonexistent/program")


async def test_many_children_at_once():
    async def child(number):
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {number}")
        status = await process.wait()
        await finish(process)
        return status

    assert await asyncio.gather(*(child(number) for number in range(15))) == list(range(15))


async def test_child_that_ends_before_wait_is_called():
    process = await asyncio.create_subprocess_exec("/bin/true", stdout=PIPE)
    assert await process.stdout.read() == b""
    await turns(20)
    assert await process.wait() == 0
    await finish(process)


async def test_cancelled_wait_leaves_the_process_alone():
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE)
    waiting = asyncio.ensure_future(process.wait())
    await turns(2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert process.returncode is None
    process.stdin.close()
    assert await process.wait() == 0
    await finish(process)


async def test_cwd_and_env_are_passed_on(tmp_path):
    process = await asyncio.create_subprocess_shell(
        "pwd; echo $WORD", cwd=tmp_path, env={"WORD": "hello", "PATH": os.environ["PATH"]}, stdout=PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().split() == [str(tmp_path), "hello"]
    await finish(process)


async def test_umask_is_passed_on():
    process = await asyncio.create_subprocess_shell("umask", umask=0o027, stdout=PIPE)
    assert int((await process.communicate())[0], 8) == 0o027
    await finish(process)


async def test_process_group_is_passed_on():
    process = await asyncio.create_subprocess_exec("/bin/cat", process_group=0, stdin=PIPE)
    assert os.getpgid(process.pid) == process.pid
    process.stdin.close()
    await process.wait()
    await finish(process)


async def test_new_session_is_passed_on():
    process = await asyncio.create_subprocess_exec("/bin/cat", start_new_session=True, stdin=PIPE)
    assert os.getsid(process.pid) == process.pid
    process.stdin.close()
    await process.wait()
    await finish(process)


async def test_preexec_fn_runs_in_the_child():
    process = await asyncio.create_subprocess_shell("pwd", preexec_fn=lambda: os.chdir("/"), stdout=PIPE)
    assert (await process.communicate())[0] == b"/\n"
    await finish(process)


async def test_pass_fds_hands_descriptors_down():
    read_fd, write_fd = os.pipe()
    process = await python(f"import os; os.write({write_fd}, b'hello')", pass_fds=(write_fd,))
    assert await process.wait() == 0
    os.close(write_fd)
    assert os.read(read_fd, 10) == b"hello"
    os.close(read_fd)
    await finish(process)


async def test_a_file_can_be_the_childs_output(tmp_path):
    path = tmp_path / "out"
    with open(path, "wb") as file:
        process = await asyncio.create_subprocess_exec("/bin/echo", "to a file", stdout=file)
        assert await process.wait() == 0
    assert path.read_bytes() == b"to a file\n"
    await finish(process)


@pytest.mark.parametrize(
    "kwargs", [{"universal_newlines": True}, {"bufsize": 1}, {"text": True}, {"encoding": "utf8"}]
)
async def test_arguments_that_asyncio_does_not_know_are_refused(kwargs):
    with pytest.raises(ValueError):
        await asyncio.get_running_loop().subprocess_exec(asyncio.SubprocessProtocol, "/bin/true", **kwargs)


async def test_protocol_gets_everything_in_order():
    class Watcher(asyncio.SubprocessProtocol):
        def __init__(self):
            self.calls = []
            self.lost = asyncio.Event()

        def connection_made(self, transport):
            self.calls.append("connection_made")

        def pipe_data_received(self, fd, data):
            self.calls.append(("data", fd, data))

        def pipe_connection_lost(self, fd, error):
            self.calls.append(("lost", fd))

        def process_exited(self):
            self.calls.append("exited")

        def connection_lost(self, error):
            self.calls.append("connection_lost")
            self.lost.set()

    loop = asyncio.get_running_loop()
    transport, watcher = await loop.subprocess_exec(Watcher, "/bin/echo", "hi", stdin=None, stderr=None)
    assert isinstance(transport, asyncio.SubprocessTransport)
    pid = transport.get_pid()
    assert pid > 0
    await watcher.lost.wait()
    assert transport.get_returncode() == 0
    assert transport.get_pid() == pid
    assert watcher.calls[0] == "connection_made"
    assert watcher.calls[-1] == "connection_lost"
    assert set(watcher.calls[1:-1]) == {("data", 1, b"hi\n"), ("lost", 1), "exited"}
    assert watcher.calls.index(("data", 1, b"hi\n")) < watcher.calls.index(("lost", 1))
    transport.close()


async def test_pipe_transports_have_their_pipe_as_extra_info():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "/bin/cat", stderr=None)
    for fd in (0, 1):
        assert transport.get_pipe_transport(fd).get_extra_info("pipe").fileno() >= 0
    assert transport.get_pipe_transport(2) is None
    assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
    transport.close()
    await transport._wait()
    await all_reported()


async def test_closing_the_transport_kills_the_child():
    transport, _ = await asyncio.get_running_loop().subprocess_exec(
        asyncio.SubprocessProtocol, "/bin/cat", stdout=None, stderr=None
    )
    transport.close()
    assert await transport._wait() == -signal.SIGKILL
    await all_reported()


async def test_children_do_not_inherit_the_loops_descriptors():
    """Rings, epoll and event fds are close-on-exec, even when nothing closes them."""
    source = (
        "import os\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    link = os.path.join('/proc/self/fd', fd)\n"
        "    if os.path.exists(link) and 'anon_inode' in os.readlink(link): print(fd, os.readlink(link))"
    )
    process = await python(source, stdout=PIPE, close_fds=False)
    assert await process.communicate() == (b"", None)
    assert process.returncode == 0
    await finish(process)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@needs_root
async def test_user_and_groups_are_passed_on():
    process = await asyncio.create_subprocess_shell(
        "id -u; id -g; id -G", user=65534, group=65533, extra_groups=[65532, 65531], stdout=PIPE
    )
    out, _ = await process.communicate()
    assert sorted(map(int, out.split())) == [65531, 65532, 65533, 65533, 65534]
    await finish(process)


async def test_executable_is_passed_on():
    process = await asyncio.create_subprocess_exec(
        "by another name", "-c", "echo $0", executable="/bin/sh", stdout=PIPE
    )
    assert await process.communicate() == (b"by another name\n", None)
    await finish(process)


async def test_pipesize_is_passed_on():
    import fcntl

    loop = asyncio.get_running_loop()
    transport, _ = await loop.subprocess_exec(
        asyncio.SubprocessProtocol, "/bin/cat", stderr=None, pipesize=4096
    )
    for fd in (0, 1):
        pipe = transport.get_pipe_transport(fd).get_extra_info("pipe")
        assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) == 4096
    transport.close()
    await transport._wait()
    await all_reported()


@pytest.mark.parametrize("close_fds", [True, False])
async def test_close_fds_is_passed_on(close_fds):
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    source = f"import os\ntry: os.fstat({write_fd})\nexcept OSError: print('closed')\nelse: print('open')"
    process = await python(source, stdout=PIPE, close_fds=close_fds)
    assert await process.communicate() == (b"closed\n" if close_fds else b"open\n", None)
    os.close(read_fd)
    os.close(write_fd)
    await finish(process)


async def test_devnull_makes_no_pipes():
    devnull = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_shell(
        "cat; echo out; echo err >&2", stdin=devnull, stdout=devnull, stderr=devnull
    )
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    assert await process.wait() == 0
    await finish(process)


async def test_sockets_can_be_the_childs_input_and_output():
    near, far = socket.socketpair()
    near.setblocking(False)
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=far, stdout=far)
    far.close()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(near, b"through a socket")
    assert await loop.sock_recv(near, 100) == b"through a socket"
    near.shutdown(socket.SHUT_WR)
    assert await process.wait() == 0
    assert await loop.sock_recv(near, 100) == b""
    near.close()
    await finish(process)


async def test_an_fd_number_can_be_the_childs_output():
    read_fd, write_fd = os.pipe()
    process = await asyncio.create_subprocess_shell(
        "echo out; echo err >&2", stdout=write_fd, stderr=write_fd
    )
    os.close(write_fd)
    assert await process.wait() == 0
    assert os.read(read_fd, 100) == b"out\nerr\n"
    os.close(read_fd)
    await finish(process)


async def test_a_failing_preexec_fn_is_an_error_and_leaves_no_child():
    def fail():
        raise OSError("no")

    with pytest.raises(subprocess.SubprocessError):
        await asyncio.create_subprocess_exec("/bin/true", preexec_fn=fail)


@pytest.mark.filterwarnings("ignore:unclosed transport")  # asyncio's, half made
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_pipe_that_cannot_be_watched_is_an_error_and_leaves_no_child(nth, monkeypatch):
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("asyncio waits forever for the child")
    calls = 0

    def set_blocking(fd, blocking):
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOMEM, "no memory")
        original(fd, blocking)

    original = os.set_blocking
    monkeypatch.setattr(os, "set_blocking", set_blocking)
    with pytest.raises(OSError, match="no memory"):
        await python("import sys; sys.stdin.read()", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    await all_reported()


async def test_a_cancelled_start_kills_the_child():
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE))
    await turns(1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await all_reported()


@pytest.mark.skipif(
    sys.version_info < (3, 11, 7), reason="asyncio 3.11.2 reports a future of its own as never retrieved"
)
async def test_a_child_that_is_stopped_has_not_ended():
    process = await python("import sys; sys.exit(sys.stdin.read() == 'go on')", stdin=PIPE)
    process.send_signal(signal.SIGSTOP)
    with open(f"/proc/{process.pid}/stat") as stat:
        await until(lambda: stat.seek(0) or stat.read().rpartition(")")[2].split()[0] == "T")
    await turns(20)
    assert process.returncode is None
    process.send_signal(signal.SIGCONT)
    process.stdin.write(b"go on")
    process.stdin.close()
    assert await process.wait() == 1
    await finish(process)


async def test_writing_to_a_child_that_closed_its_input_raises():
    process = await asyncio.create_subprocess_shell(
        "exec <&-; read x <&2", stdin=PIPE, stderr=subprocess.DEVNULL
    )
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            process.stdin.write(b"x" * 100_000)
            await process.stdin.drain()
    with contextlib.suppress(OSError):  # Python 3.11.2 reports this error again if it is not awaited
        await process.stdin.wait_closed()
    await process.wait()
    await finish(process)
