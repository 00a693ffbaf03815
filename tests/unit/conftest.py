"""Monitors, contexts and file descriptors for the tests of the core."""

import contextlib
import os
import resource
import socket

import pytest
from drivers.core import ContextDriver, MonitorDriver, RecordingHandler
from support.monitors import MONITORS, REAL_MONITORS, make_monitor

import uringloop

ROUNDS_OF_FAULTY = 60  # (0.3 + 0.7 * 0.3) ** 60: a handler not reported after that is never reported


def _selected(config, names):
    """With --monitor the fakes run along with any monitor of uringloop."""
    wanted = config.getoption("--monitor")
    if not wanted:
        return list(names)
    return [name for name in names if name in wanted or (name not in REAL_MONITORS and wanted != ["asyncio"])]


def pytest_generate_tests(metafunc):
    """`fdmon_name`: each real monitor and the fake ones; `real_fdmon_name`: the real ones."""
    for fixture, names in (("fdmon_name", MONITORS), ("real_fdmon_name", REAL_MONITORS)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, _selected(metafunc.config, names), indirect=True)


def _available(name):
    try:
        made = MonitorDriver(make_monitor(name))
    except uringloop.MonitorUnavailable as error:
        pytest.skip(f"{name}: {error}")
    made.close()
    return name


@pytest.fixture
def fdmon_name(request):
    return _available(request.param)


@pytest.fixture
def real_fdmon_name(request):
    return _available(request.param)


class Monitor(MonitorDriver):
    """A MonitorDriver with helpers for common steps."""

    def __init__(self, name, **kwargs):
        super().__init__(make_monitor(name, **kwargs))
        self.name = name
        # requests that stay in flight whatever is watched: the one for the epoll set, once there is one
        self.n_always_in_flight = int(name in ("closable", "restless"))

    def ready(self):
        """The ready handlers, {handler: revents}; a faulty monitor is called repeatedly."""
        found = {}
        for _ in range(ROUNDS_OF_FAULTY if self.name == "faulty" else 1):
            reports = self.wait(0)
            assert len({handler for handler, _ in reports}) == len(reports), "a handler was reported twice"
            for handler, revents in reports:
                found[handler] = found.get(handler, 0) | revents
        return found

    def queue_ready(self):
        """Put ready handlers onto the ready list; return its length."""
        for _ in range(ROUNDS_OF_FAULTY if self.name == "faulty" else 1):
            count = self.wait_only(0)
        return count


@pytest.fixture
def new_driver(fdmon_name):
    """A function that makes a Monitor; `begin_run=False` for one that no thread runs yet."""
    made = []

    def new(*, begin_run=True):
        driver = Monitor(fdmon_name)
        made.append(driver)
        if begin_run:
            driver.begin_run()
        return driver

    yield new
    for driver in made:
        driver.close()


@pytest.fixture
def driver(new_driver):
    return new_driver()


@pytest.fixture
def ring_driver():
    """A Monitor on io_uring."""
    _available("io_uring")
    driver = Monitor("io_uring")
    driver.begin_run()
    yield driver
    driver.close()


@pytest.fixture
def aio(fdmon_name):
    """An AioContext whose owner is this thread."""
    context = ContextDriver(make_monitor(fdmon_name))
    context.begin_run()
    yield context
    context.close()
    assert context.errors == []


@pytest.fixture
def real_aio(real_fdmon_name):
    """Like `aio`, without the fake monitors, for tests that count turns."""
    context = ContextDriver(make_monitor(real_fdmon_name))
    context.begin_run()
    yield context
    context.close()
    assert context.errors == []


@pytest.fixture
def new_context(real_fdmon_name):
    """A function that makes AioContexts; all are closed afterwards."""
    made = []

    def new(fdmon=real_fdmon_name):
        context = uringloop.AioContext(fdmon)
        made.append(context)
        return context

    yield new
    for context in made:
        context.close()


@pytest.fixture
def context(new_context):
    return new_context()


@pytest.fixture
def new_notifier():
    """A function that makes EventNotifiers; all are closed afterwards."""
    made = []

    def new():
        notifier = uringloop.EventNotifier()
        made.append(notifier)
        return notifier

    yield new
    for notifier in made:
        notifier.close()


class Fds:
    """File descriptors that are closed at the end, each once."""

    def __init__(self):
        self.open = set()
        self.socks = []

    def pipe(self):
        """(read end, write end), non-blocking."""
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.open.update(ends)
        return ends

    def readable(self):
        """The read end of a pipe that contains a byte."""
        reader, writer = self.pipe()
        os.write(writer, b"x")
        return reader

    def eventfd(self, value=0):
        self.open.add(fd := os.eventfd(value, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        return fd

    def file(self, path, flags=os.O_RDONLY):
        self.open.add(fd := os.open(path, flags | os.O_CLOEXEC))
        return fd

    def socketpair(self):
        """Two connected, non-blocking Unix sockets."""
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        self.socks.extend(ends)
        return ends

    def close(self, fd):
        self.open.remove(fd)
        os.close(fd)

    def closed(self):
        """The number of a closed file descriptor."""
        reader, _ = self.pipe()
        self.close(reader)
        return reader

    def close_all(self):
        while self.open:
            os.close(self.open.pop())
        for sock in self.socks:
            sock.close()


@pytest.fixture
def fds():
    made = Fds()
    yield made
    made.close_all()


@pytest.fixture
def many_fds():
    """Room for thousands of file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"RLIMIT_NOFILE is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def free_fds(count):
    """Leave this process exactly `count` file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = os.dup(0)
    fillers = [source]
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(source))
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def handler_with(callback, fd, events):
    """A RecordingHandler that calls back."""
    handler = RecordingHandler(fd, events)
    handler.callback = callback
    return handler


def open_fds():
    """The numbers of the open file descriptors."""
    numbers = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            numbers.add(int(name))
    return numbers


def inheritable_fds():
    """The open fds that programs inherit which the process starts."""
    return {fd for fd in open_fds() if os.get_inheritable(fd)}


def forget_spare_rings():
    """Close the pooled rings, so that fds can be counted."""
    try:
        from uringloop.uring import ring
    except ImportError:
        return
    ring.forget_spare_rings()
