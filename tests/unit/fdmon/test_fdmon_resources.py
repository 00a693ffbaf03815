"""The FDMonitor interface: resources that the constructor acquires, and that close and forget release."""

import asyncio
import contextlib
import errno
import gc
import os
import select
import socket

import pytest
from drivers.core import ContextDriver, MonitorDriver, RecordingHandler
from support.helpers import run_script

import uringloop
from unit.conftest import forget_spare_rings, free_fds, inheritable_fds, open_fds
from uringloop.fdmon.select import make_monitor

POLLIN = select.POLLIN


# Constructor


@pytest.mark.parametrize("free", [0, 1, 2])
def test_constructor_that_fails_leaves_no_fd_behind(real_fdmon_name, free):
    forget_spare_rings()
    before = open_fds()
    must_fail = free == 0 and real_fdmon_name != "poll"
    with free_fds(free):
        with pytest.raises(uringloop.MonitorUnavailable) if must_fail else contextlib.nullcontext() as caught:
            MonitorDriver(make_monitor(real_fdmon_name)[0]).close()
    if must_fail:
        assert caught.value.errno == errno.EMFILE
        assert "EMFILE" in str(caught.value)
        assert real_fdmon_name in str(caught.value)
    forget_spare_rings()
    assert open_fds() == before


def test_context_that_cannot_be_made_leaves_no_fd_behind(real_fdmon_name):
    forget_spare_rings()
    before = open_fds()
    monitor = make_monitor(real_fdmon_name)[0]
    with free_fds(0):
        with pytest.raises(OSError) as caught:
            ContextDriver(monitor)
    assert caught.value.errno == errno.EMFILE
    MonitorDriver(monitor).close()
    forget_spare_rings()
    assert open_fds() == before


def test_loop_that_cannot_be_made_leaves_no_fd_behind(monitor):
    forget_spare_rings()
    before = open_fds()
    failures = 0
    for free in range(12):
        with free_fds(free):
            try:
                loop = uringloop.new_event_loop(fdmon=monitor)
                loop.close()
            except OSError as error:
                failures += error.errno == errno.EMFILE
        forget_spare_rings()
        gc.collect()
        assert open_fds() == before, f"with {free} free fds"
        loop = None
    assert 0 < failures < 12


def test_no_fd_of_a_loop_is_inherited(monitor):
    before = inheritable_fds()
    loop = uringloop.new_event_loop(fdmon=monitor)
    near, far = socket.socketpair()
    with near, far, contextlib.closing(loop):
        loop.add_reader(near, loop.stop)
        far.send(b"x")
        loop.run_forever()
        assert inheritable_fds() == before


# close, forget


def test_close_is_idempotent_and_releases_fds_and_handlers(new_driver, fds):
    gone = []

    class Watched(RecordingHandler):
        def __del__(self):
            gone.append(self.fd)

    forget_spare_rings()
    before = open_fds()
    driver = new_driver()
    ready, idle = fds.readable(), fds.pipe()[0]
    for fd in (ready, idle):
        driver.update(None, Watched(fd, POLLIN))
    driver.ready()
    driver.close()
    driver.close()
    assert driver.fileno() == -1
    statistics = driver.statistics()
    assert (statistics["handlers"], statistics["in_flight"]) == (0, 0)
    gc.collect()
    assert sorted(gone) == sorted([ready, idle])
    forget_spare_rings()  # the ring may be kept for the next loop
    assert open_fds() - fds.open == before


def test_close_before_the_first_run_releases_everything(new_driver, fds):
    forget_spare_rings()
    before = open_fds()
    driver = new_driver(begin_run=False)
    driver.update(None, RecordingHandler(fds.readable(), POLLIN))
    driver.close()
    driver.close()
    forget_spare_rings()
    assert open_fds() - fds.open == before


def test_an_fd_that_may_be_closed_is_watched_although_no_descriptor_is_left(new_driver, fds):
    """Then io_uring has no epoll set, and uses POLL_ADD."""
    driver = new_driver()
    if driver.name in ("closable", "restless"):
        pytest.skip("this driver watches its notifier with the epoll set from the start")
    reader, writer = fds.pipe()
    handler, later = RecordingHandler(reader, POLLIN), RecordingHandler(writer, select.POLLOUT)
    handler.may_be_closed = later.may_be_closed = True
    with free_fds(0):
        driver.update(None, handler)
    assert driver.ready() == {}
    os.write(writer, b"x")
    assert driver.ready() == {handler: POLLIN}
    driver.update(None, later)  # now with an epoll set
    assert driver.ready() == {handler: POLLIN, later: select.POLLOUT}
    driver.update(handler, both := RecordingHandler(reader, POLLIN))
    assert driver.ready() == {both: POLLIN, later: select.POLLOUT}
    driver.update(both, None)
    driver.update(later, None)
    assert driver.ready() == {}
    assert driver.statistics()["handlers"] == 0


def test_using_a_closed_monitor_raises_or_does_nothing_but_does_not_crash(request, real_fdmon_name):
    run_script(
        """
        import os
        from uringloop.fdmon.select import make_monitor
        from drivers.core import MonitorDriver, RecordingHandler
        for begin_run in (True, False):
            driver = MonitorDriver(make_monitor(MONITOR)[0])
            if begin_run:
                driver.begin_run()
                driver.wait(0)
            driver.close()
            reader, writer = os.pipe()
            handler = RecordingHandler(reader, 1)
            for call in (driver.need_wait, driver.has_undispatched, driver.dispatch, driver.submit,
                         driver.settle, driver.fileno, driver.statistics, lambda: driver.wait(0),
                         lambda: driver.update(None, handler), lambda: driver.wait(0),
                         lambda: driver.update(handler, None), lambda: driver.wait(1000), driver.begin_run,
                         driver.need_wait, driver.forget, driver.close):
                try:
                    call()
                except (OSError, RuntimeError) as error:
                    print(type(error).__name__)
        """,
        real_fdmon_name,
    )


def test_turn_of_a_closed_loop_does_not_crash(request, monitor):
    run_script(
        """
        loop = make_loop(MONITOR)
        one_turn(loop)
        loop.close()
        try:
            loop.aio_context.poll(False)
        except (OSError, RuntimeError) as error:
            print(error)
        """,
        monitor,
    )


def test_forget_closes_only_this_process_copies(new_driver, fds):
    forget_spare_rings()
    before = open_fds()
    driver = new_driver()
    driver.update(None, RecordingHandler(fds.pipe()[0], POLLIN))
    driver.wait(0)
    driver.forget()
    driver.forget()
    assert open_fds() - fds.open == before


def test_resume_reading_after_the_loop_was_closed_opens_no_fd(real_fdmon_name):
    class Paused(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()

    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    near, far = socket.socketpair()
    near.setblocking(False)
    transport = loop.run_until_complete(loop.create_connection(Paused, sock=near))[0]
    loop.close()
    before = open_fds()
    with contextlib.suppress(OSError, RuntimeError):  # poll does not notice
        transport.resume_reading()
    assert open_fds() == before
    left = [loop, transport]
    del loop, transport

    def forget():
        left.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        forget()
    near.close()
    far.close()
