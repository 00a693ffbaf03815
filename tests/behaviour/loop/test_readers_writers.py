"""add_reader and add_writer."""

import asyncio
import contextlib
import fcntl
import os
import socket
from errno import EBADF, EPERM

import pytest
from support.helpers import STOCK, fill, monitor_of, one_turn, turn_until, turns


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


def test_a_reader_is_called_when_there_is_data(loop, pair):
    near, far = pair
    got = []
    assert loop.add_reader(near, lambda *args: got.append((args, near.recv(10))), 1, 2) is None
    one_turn(loop)
    assert got == []
    far.send(b"x")
    turn_until(loop, lambda: got)
    assert got == [((1, 2), b"x")]
    assert loop.remove_reader(near) is True
    assert loop.remove_reader(near) is False


def test_readers_are_level_triggered(loop, pair):
    """A callback that leaves data behind is called again."""
    near, far = pair
    got = []
    loop.add_reader(near, lambda: got.append(near.recv(1)))
    far.send(b"abc")
    turn_until(loop, lambda: len(got) == 3)
    assert got == [b"a", b"b", b"c"]
    loop.remove_reader(near)


def test_a_reader_that_reads_nothing_is_called_every_turn(loop, pair):
    near, far = pair
    calls = []
    loop.add_reader(near, calls.append, 1)
    far.send(b"x")
    turn_until(loop, lambda: len(calls) >= 5)
    loop.remove_reader(near)
    count = len(calls)
    for _ in range(3):
        one_turn(loop)
    assert len(calls) == count


def test_a_writer_is_called_while_there_is_room(loop, pair):
    near, far = pair
    calls = []
    filled = fill(near)
    loop.add_writer(near, calls.append, 1)
    for _ in range(3):
        one_turn(loop)
    assert calls == []
    while filled:
        filled -= len(far.recv(1 << 16))
    turn_until(loop, lambda: len(calls) >= 3)
    assert loop.remove_writer(near) is True
    assert loop.remove_writer(near) is False


def test_reader_and_writer_on_one_fd_are_independent(loop, pair):
    near, far = pair
    calls = []
    loop.add_reader(near, lambda: calls.append(("read", near.recv(10))))
    loop.add_writer(near, lambda: calls.append("write"))
    turn_until(loop, lambda: calls)
    assert loop.remove_writer(near) is True
    calls.clear()
    far.send(b"x")
    turn_until(loop, lambda: calls)
    assert calls == [("read", b"x")]
    loop.add_writer(near, lambda: calls.append("write"))
    assert loop.remove_reader(near) is True
    turn_until(loop, lambda: "write" in calls)
    far.send(b"y")
    for _ in range(3):
        one_turn(loop)
    assert ("read", b"y") not in calls
    assert loop.remove_writer(near) is True


def test_replacing_a_reader_uses_the_new_callback_only(loop, pair):
    near, far = pair
    calls = []
    loop.add_reader(near, calls.append, "old")
    far.send(b"x")
    loop.add_reader(near, calls.append, "new")
    turn_until(loop, lambda: calls)
    assert set(calls) == {"new"}
    assert loop.remove_reader(near) is True
    assert loop.remove_reader(near) is False


def test_a_reader_may_remove_itself_or_another_whose_event_is_already_there(loop):
    pairs = [socket.socketpair() for _ in range(10)]
    calls = []

    def remove_all(number):
        calls.append(number)
        for near, _ in pairs:
            loop.remove_reader(near)

    for number, (near, far) in enumerate(pairs):
        loop.add_reader(near, remove_all, number)
        far.send(b"x")
    turn_until(loop, lambda: calls)
    for _ in range(3):
        one_turn(loop)
    assert len(calls) == 1
    for near, far in pairs:
        near.close()
        far.close()


def test_a_reader_may_add_itself_again_in_its_callback(loop, pair):
    near, far = pair
    calls = []

    def callback(number):
        calls.append((number, near.recv(1)))
        loop.remove_reader(near)
        loop.add_reader(near, callback, number + 1)

    loop.add_reader(near, callback, 0)
    far.send(b"abc")
    turn_until(loop, lambda: len(calls) == 3)
    assert calls == [(0, b"a"), (1, b"b"), (2, b"c")]
    loop.remove_reader(near)


def test_end_of_stream_and_hang_up_call_the_reader(loop, pair):
    near, far = pair
    got = []
    loop.add_reader(near, lambda: (got.append(near.recv(10)), loop.remove_reader(near)))
    far.close()
    turn_until(loop, lambda: got)
    assert got == [b""]


def test_hang_up_calls_the_writer_too(loop):
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    try:
        while True:
            os.write(write_fd, bytes(4096))
    except BlockingIOError:
        pass
    calls = []
    loop.add_writer(write_fd, lambda: (calls.append(1), loop.remove_writer(write_fd)))
    one_turn(loop)
    assert calls == []
    os.close(read_fd)
    turn_until(loop, lambda: calls)
    os.close(write_fd)


def test_an_fd_number_that_is_reused_gets_the_new_callback(loop):
    """The old file is closed after remove_reader; the number belongs to another file now."""
    calls = []
    for number in range(20):
        near, far = socket.socketpair()
        loop.add_reader(near.fileno(), calls.append, number)
        one_turn(loop)
        assert calls == []
        far.send(b"x")
        turn_until(loop, lambda: calls)
        assert set(calls) == {number}
        loop.remove_reader(near.fileno())
        near.close()
        far.close()
        calls.clear()


def test_an_fd_number_can_be_reused_within_one_turn(loop):
    calls = []
    near, far = socket.socketpair()
    other, peer = socket.socketpair()
    number = near.fileno()
    loop.add_reader(number, calls.append, "old")
    one_turn(loop)
    loop.remove_reader(number)
    near.close()
    os.dup2(other.fileno(), number)
    loop.add_reader(number, calls.append, "new")
    far.close()
    for _ in range(3):
        one_turn(loop)
    assert calls == []
    peer.send(b"x")
    turn_until(loop, lambda: calls)
    assert set(calls) == {"new"}
    loop.remove_reader(number)
    os.close(number)
    other.close()
    peer.close()


def test_regular_files_are_refused(loop, tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(PermissionError):
                method(file, print)
    assert loop.remove_reader(0) is False


def test_a_pollable_file_is_accepted_although_stat_calls_it_regular(loop):
    """As in a program that waits for mounts."""
    called = []
    with open("/proc/self/mounts", "rb") as file:
        loop.add_reader(file, called.append, 1)
        turn_until(loop, lambda: called)  # it is always readable
        assert loop.remove_reader(file) is True


def test_bad_fds_are_refused(loop):
    for method in (loop.add_reader, loop.add_writer):
        with pytest.raises(ValueError):
            method(-1, print)
        with pytest.raises((ValueError, TypeError)):
            method("text", print)
        with pytest.raises((ValueError, TypeError)):
            method(object(), print)
    for method in (loop.remove_reader, loop.remove_writer):
        with pytest.raises(ValueError):
            method(-1)


def test_closed_fds_are_refused(loop):
    near, far = socket.socketpair()
    number = near.fileno()
    near.close()
    with pytest.raises(OSError):
        loop.add_reader(number, print)
    far.close()


@pytest.mark.parametrize("name", ["add_reader", "add_writer"])
def test_a_closed_loop_says_so_before_a_closed_socket_is_refused(loop, name):
    near, far = socket.socketpair()
    near.close()
    far.close()
    loop.close()
    for file in (near, -1):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            getattr(loop, name)(file, print)


def test_a_reader_that_replaces_another_does_not_get_the_hang_up_that_was_for_the_old_one(loop):
    calls = []
    near, far = socket.socketpair()
    with near:
        far.close()
        loop.add_reader(near, calls.append, "old")
        loop.call_soon(loop.add_reader, near, calls.append, "new")
        one_turn(loop)
        assert calls == []  # nor the old one, which was cancelled before its turn came
        one_turn(loop)
        assert calls == ["new"]
        loop.remove_reader(near)


def test_objects_with_fileno_are_accepted(loop, pair):
    class Thing:
        def fileno(self):
            return pair[0].fileno()

    calls = []
    loop.add_reader(Thing(), calls.append, 1)
    pair[1].send(b"x")
    turn_until(loop, lambda: calls)
    assert loop.remove_reader(pair[0].fileno()) is True


def test_pipes_eventfds_and_epolls_can_be_watched(loop):
    import select

    calls = []
    read_fd, write_fd = os.pipe()
    event_fd = os.eventfd(0)
    epoll = select.epoll()
    epoll.register(read_fd, select.EPOLLIN)
    for fd in (read_fd, event_fd, epoll.fileno()):
        loop.add_reader(fd, lambda fd=fd: (calls.append(fd), loop.remove_reader(fd)))
    one_turn(loop)
    assert calls == []
    os.write(write_fd, b"x")
    os.eventfd_write(event_fd, 1)
    turn_until(loop, lambda: len(calls) == 3)
    assert set(calls) == {read_fd, event_fd, epoll.fileno()}
    epoll.close()
    for fd in (read_fd, write_fd, event_fd):
        os.close(fd)


def test_a_listener_can_be_watched(loop):
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop.add_reader(listener, lambda: (calls.append(1), loop.remove_reader(listener)))
        one_turn(loop)
        assert calls == []
        with socket.create_connection(listener.getsockname()):
            turn_until(loop, lambda: calls)


def test_a_thousand_readers_before_the_first_run(loop):
    """More than fit into a submission queue before anything is submitted."""
    pairs = [socket.socketpair() for _ in range(1000)]
    called = set()

    def callback(number):
        called.add(number)
        loop.remove_reader(pairs[number][0])

    for number, (near, _) in enumerate(pairs):
        loop.add_reader(near, callback, number)
    for _, far in pairs[::2]:
        far.send(b"x")
    turn_until(loop, lambda: len(called) >= 500)
    assert called == set(range(0, 1000, 2))
    for _, far in pairs[1::2]:
        far.send(b"x")
    turn_until(loop, lambda: len(called) == 1000)
    for near, far in pairs:
        near.close()
        far.close()


def test_readers_survive_from_one_run_to_the_next(loop, pair):
    near, far = pair
    got = []
    loop.add_reader(near, lambda: got.append(near.recv(1)))
    for number in range(5):
        one_turn(loop)
        far.send(b"%d" % number)
        turn_until(loop, lambda number=number: len(got) == number + 1)
    assert got == [b"%d" % number for number in range(5)]
    loop.remove_reader(near)


@pytest.mark.parametrize("number", [1 << 31, 1 << 64])
def test_a_number_that_no_file_can_have_is_not_watched(loop, number):
    assert loop.remove_reader(number) is False
    assert loop.remove_writer(number) is False


def test_removed_readers_release_their_callbacks(loop, pair):
    import gc
    import weakref

    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing)
    loop.add_reader(pair[0], print, thing)
    one_turn(loop)
    loop.remove_reader(pair[0])
    del thing
    one_turn(loop)
    gc.collect()
    assert watch() is None


def test_readers_run_in_the_context_in_which_they_were_added(loop, pair):
    import contextvars

    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    def add():
        variable.set("inside")
        loop.add_reader(pair[0], lambda: (seen.append(variable.get()), loop.remove_reader(pair[0])))

    contextvars.copy_context().run(add)
    pair[1].send(b"x")
    turn_until(loop, lambda: seen)
    assert seen == ["inside"]


@pytest.mark.expects_loop_errors
def test_an_exception_in_a_reader_is_reported_and_the_reader_stays(loop, pair, loop_errors):
    near, far = pair

    def callback():
        near.recv(1)
        raise ZeroDivisionError

    loop.add_reader(near, callback)
    far.send(b"ab")
    turn_until(loop, lambda: len(loop_errors) >= 2)
    assert {type(context["exception"]) for context in loop_errors} == {ZeroDivisionError}
    assert loop.remove_reader(near) is True


def test_a_file_that_is_closed_while_watched_does_not_break_the_loop(loop):
    """A mistake of the caller that stock asyncio on epoll forgives."""
    near, far = socket.socketpair()
    loop.add_reader(near, print)
    one_turn(loop)
    number = near.fileno()
    near.close()
    for _ in range(3):
        loop.call_later(0.0005, loop.stop)
        loop.run_forever()
    assert loop.remove_reader(number) is True
    far.close()
    if monitor_of(loop) != STOCK:
        assert loop.statistics()["in_flight"] >= 0


def connected(kind):
    """Two connected ends; what the second reads shows whether the first is still open."""
    if kind == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            return near, listener.accept()[0]
    return socket.socketpair()


@pytest.mark.parametrize("what", ["reader", "writer", "both"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_peer_of_a_watched_socket_that_is_closed_sees_the_end_at_once(loop, kind, what):
    """A registration holds no reference to its file."""
    near, far = connected(kind)
    far.settimeout(10)
    if what != "writer":
        loop.add_reader(near, print)
    if what != "reader":
        loop.add_writer(near, int)
    for _ in range(3):
        one_turn(loop)
    near.close()
    assert far.recv(1) == b""
    far.close()


def test_the_reader_of_a_watched_pipe_whose_end_is_closed_sees_the_end_at_once(loop):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 16))
    loop.add_writer(writer, print)
    one_turn(loop)
    os.close(writer)
    while os.read(reader, 1 << 20):  # BlockingIOError where the end is still open
        pass
    os.close(reader)


def test_the_writer_of_a_watched_pipe_whose_end_is_closed_gets_an_error_at_once(loop):
    reader, writer = os.pipe()
    loop.add_reader(reader, print)
    one_turn(loop)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)


def test_a_watched_listener_that_is_closed_accepts_nothing_and_frees_its_port_at_once(loop):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    accepted = []
    loop.add_reader(listener, accepted.append, 1)
    one_turn(loop)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    with socket.socket() as other:
        other.bind(address)
        other.listen()
    for _ in range(3):
        one_turn(loop)
    assert accepted == []


def test_a_watched_file_that_was_closed_reports_nothing_for_the_file_that_gets_its_number(loop):
    near, far = socket.socketpair()
    number = fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, 500)  # a number that nothing else gets
    near.close()
    called = []
    loop.add_reader(number, called.append, "reader of the old file")
    one_turn(loop)
    os.close(number)
    if monitor_of(loop) == "poll":
        one_turn(loop)  # poll(2) knows only numbers: the next wait finds what was closed
    other, peer = socket.socketpair()
    os.dup2(other.fileno(), number)
    peer.send(b"x")
    for _ in range(5):
        one_turn(loop)
    assert called == []
    loop.remove_reader(number)
    os.close(number)
    for sock in (far, other, peer):
        sock.close()


def test_a_closed_file_whose_duplicate_lives_does_not_keep_the_loop_busy(loop):
    """At least once its reader is removed."""
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio's epoll_wait() returns at once from then on")
    near, far = socket.socketpair()
    called = []
    loop.add_reader(near, called.append, 1)
    one_turn(loop)
    number = near.fileno()
    with near.dup() as duplicate, far:
        near.close()
        far.send(b"x")
        loop.remove_reader(number)
        for _ in range(3):
            one_turn(loop)
        n_before = loop.statistics()["turns"]
        loop.run_until_complete(asyncio.sleep(0.05))  # a busy loop would make thousands of turns
        assert loop.statistics()["turns"] - n_before < 20
        assert called == []
        loop.add_reader(duplicate, called.append, 2)
        turn_until(loop, lambda: called)
        loop.remove_reader(duplicate)
    assert set(called) == {2}


def test_the_file_that_has_the_number_of_a_closed_one_is_not_watched_when_another_is_removed_too_late(loop):
    """The other is closed before its reader is removed, and has an open duplicate: epoll(7) keeps reporting it."""
    if monitor_of(loop) == "poll":
        pytest.skip("poll(2) knows only numbers")
    closed, far = socket.socketpair()
    late, far_of_late = socket.socketpair()
    other, far_of_other = socket.socketpair()
    called = []
    with closed, far, far_of_late, other, far_of_other:
        number = late.fileno()
        loop.add_reader(closed, called.append, "closed")
        loop.add_reader(late, called.append, "late")
        one_turn(loop)
        os.dup2(other.fileno(), closed.fileno())
        with late.dup():
            late.close()
            loop.remove_reader(number)
            far_of_late.send(b"x")
            for _ in range(3):
                one_turn(loop)
            far_of_other.send(b"x")
            for _ in range(3):
                one_turn(loop)
        loop.remove_reader(closed)
    assert called == []


def test_an_fd_that_is_closed_by_its_own_callback_is_closed_for_the_peer(loop):
    near, far = socket.socketpair()
    far.settimeout(10)
    called = []

    def close():
        called.append(1)
        near.close()

    loop.add_reader(near, close)
    far.send(b"x")
    turn_until(loop, lambda: called)
    with contextlib.suppress(ConnectionResetError):  # "x" was not read
        assert far.recv(1) == b""
    for _ in range(3):
        one_turn(loop)
    assert called == [1]
    far.close()


def test_readers_that_are_ready_at_once_are_called_once_each_in_a_turn(loop):
    """There are more than one wait reports."""
    pairs = [socket.socketpair() for _ in range(150)]
    counts = [0] * len(pairs)

    def count(index):
        counts[index] += 1
        pairs[index][0].recv(1)

    for index, (near, far) in enumerate(pairs):
        loop.add_reader(near, count, index)
        far.send(b"x")
    turn_until(loop, lambda: sum(counts) == len(pairs))
    assert set(counts) == {1}
    for near, far in pairs:
        loop.remove_reader(near)
        near.close()
        far.close()


def results_of(*calls):
    """What each call returns, or the errno of what it raises."""
    results = []
    for call in calls:
        try:
            results.append(call())
        except OSError as error:
            results.append(error.errno)
    return results


@pytest.mark.parametrize("n_turns", [0, 2], ids=["at once", "later"])
@pytest.mark.parametrize("first", ["reader", "writer"])
@pytest.mark.parametrize("end", ["closed", "regular"])
def test_nothing_is_kept_of_an_fd_that_can_no_longer_be_watched(loop, tmp_path, end, first, n_turns):
    """The change to the other direction fails once and forgets both; a later file with that number starts clean."""
    near, far = socket.socketpair()
    number = near.fileno()
    called = []
    loop.add_reader(number, called.append, "old reader")
    loop.add_writer(number, called.append, "old writer")
    one_turn(loop)
    near.close()
    if end == "regular":
        replace_by_regular_file(number, tmp_path)
    for _ in range(n_turns):
        loop.call_later(0.0005, loop.stop)
        loop.run_forever()
    removals = [lambda: loop.remove_reader(number), lambda: loop.remove_writer(number)]
    if first == "writer":
        removals.reverse()
    assert results_of(*removals, *removals) == [EBADF if end == "closed" else EPERM, False, False, False]
    called.clear()
    other, peer = socket.socketpair()
    if other.fileno() != number:
        os.dup2(other.fileno(), number)
    loop.add_reader(number, called.append, "new reader")
    peer.send(b"x")
    turn_until(loop, lambda: called)
    one_turn(loop)
    assert set(called) == {"new reader"}
    assert results_of(*removals) == ([True, False] if first == "reader" else [False, True])
    for sock in (far, other, peer):
        sock.close()
    close_if_open(number)


def replace_by_regular_file(number, directory):
    fd = os.open(directory / "regular", os.O_CREAT | os.O_RDWR)
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)


def close_if_open(number):
    with contextlib.suppress(OSError):
        os.close(number)


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_watching_a_closed_fd_for_more_forgets_what_it_was_watched_for(loop, kind):
    near, far = socket.socketpair()
    number = near.fileno()
    add, remove = getattr(loop, f"add_{kind}"), getattr(loop, f"remove_{kind}")
    other = "writer" if kind == "reader" else "reader"
    getattr(loop, f"add_{other}")(number, print)
    one_turn(loop)
    near.close()
    with pytest.raises(OSError):
        add(number, print)
    assert remove(number) is False
    assert getattr(loop, f"remove_{other}")(number) is False
    far.close()


@pytest.mark.expects_loop_errors
async def test_a_cancelled_receive_is_cancelled_although_its_socket_was_closed_under_a_send(loop_errors):
    """Both watch one fd; to remove one of them fails, which is reported and hides nothing."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    number = near.fileno()
    receiving = asyncio.ensure_future(loop.sock_recv(near, 10))
    fill(near)
    sending = asyncio.ensure_future(loop.sock_sendall(near, b"x"))
    await turns(2)
    near.close()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await turns(2)
    assert [type(context["exception"]) for context in loop_errors] == [OSError]
    loop_errors.clear()
    assert loop.remove_reader(number) is False
    assert loop.remove_writer(number) is False
    far.close()


@pytest.mark.expects_loop_errors
async def test_a_receive_ends_when_its_socket_is_closed_right_before_it_is_woken(loop_errors):
    """Another callback closes the socket in the turn in which its reader is called; a send waits for it, too."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    first, second = socket.socketpair()
    for sock in (near, first):
        sock.setblocking(False)
    fill(near)
    sending = asyncio.ensure_future(loop.sock_sendall(near, b"x"))
    loop.add_reader(first, lambda: (loop.remove_reader(first), near.close()))
    await turns(2)
    receiving = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(2)
    second.send(b"x")
    far.send(b"x")
    (result,) = await asyncio.gather(asyncio.wait_for(receiving, 5), return_exceptions=True)
    assert result == b"x" or result.errno == EBADF  # no TimeoutError, which has no number
    sending.cancel()
    with pytest.raises((OSError, asyncio.CancelledError)):
        await sending
    await turns(2)
    loop_errors.clear()
    for sock in (far, first, second):
        sock.close()


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_a_closed_socket_object_can_still_be_removed(loop, kind):
    """anyio closes a socket and then removes it from the loop."""
    add, remove = getattr(loop, f"add_{kind}"), getattr(loop, f"remove_{kind}")
    near, far = socket.socketpair()
    add(near, print)
    near.close()
    with socket.socket() as other:
        pass
    with pytest.raises(ValueError):
        remove(other)
    assert remove(near) is True
    with pytest.raises(ValueError):
        remove(near)
    far.close()


def test_asyncio_event_can_be_set_from_a_reader(loop, pair):
    near, far = pair

    async def main():
        ready = asyncio.Event()
        loop.add_reader(near, ready.set)
        far.send(b"x")
        await ready.wait()
        loop.remove_reader(near)

    loop.run_until_complete(main())
