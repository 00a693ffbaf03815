"""Raw requests against the system calls that they stand for, which are made one by one for the other trace."""

import errno
import os
import select
import stat
import tempfile

from hypothesis import strategies as st
from support.helpers import HAS_CFFI, STOCK

from .comparing import Machine

NAMES = st.sampled_from(["a", "b", "folder", "folder/a", "missing/a", "link"])
FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_RDWR | os.O_APPEND,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_RDONLY | os.O_NOFOLLOW,
    ]
)
NUMBERS = st.integers(0, 4)
SIZES = st.sampled_from([0, 1, 10, 100, 5000])
OFFSETS = st.sampled_from([0, 0, 1, 50, 6000])

SINGLE = st.one_of(
    st.tuples(st.just("openat"), NAMES, FLAGS),
    st.tuples(st.just("openat"), NAMES, FLAGS),
    st.tuples(st.sampled_from(["read", "write"]), NUMBERS, SIZES, OFFSETS),
    st.tuples(st.sampled_from(["read", "write"]), NUMBERS, SIZES, OFFSETS),
    st.tuples(st.sampled_from(["statx", "mkdirat", "unlinkat", "rmdir"]), NAMES),
    st.tuples(st.sampled_from(["renameat", "linkat", "symlinkat"]), NAMES, NAMES),
    st.tuples(st.just("fsync"), NUMBERS),
    st.tuples(st.just("nop")),
    st.tuples(st.just("bad_close")),
)
# A link that opens a file would leave it open when a later one fails.
LINKS = SINGLE.filter(lambda one: one[0] != "openat")
STEPS = st.one_of(
    SINGLE,
    SINGLE,
    SINGLE,
    st.tuples(st.just("close"), NUMBERS),
    st.tuples(st.just("chain"), st.lists(LINKS, min_size=2, max_size=4)),
    st.tuples(st.just("together"), st.lists(st.tuples(st.just("statx"), NAMES), min_size=2, max_size=4)),
    st.tuples(
        st.just("pipe"),
        st.sampled_from(["read", "poll"]),
        st.sampled_from(["data", "end", "cancel", "ready"]),
    ),
    st.tuples(st.just("timeout")),
)
PROGRAMS = st.lists(STEPS, min_size=5, max_size=30)


# Linux ends a chain when one of these fails; after others (rename, mkdir, fsync ...) it goes on.
BREAKING = ("read", "write", "bad_close")


class Calls:
    """The system calls. A result is what the kernel returns: a number, or a negative errno."""

    def __init__(self, folder):
        self.folder = folder
        self.n_written = 0
        self.fds = []
        self.details = None  # what a request writes into memory

    def fd(self, number):
        return self.fds[number % len(self.fds)] if self.fds else 1 << 20

    def data(self, size):
        self.n_written += 1
        return bytes([self.n_written % 256]) * size

    def path(self, name):
        """Relative to the folder's descriptor."""
        return os.fsencode(name)

    def single(self, name, *arguments):
        self.details = None
        try:
            result = getattr(self, "do_" + name)(*arguments)
        except OSError as error:
            return -error.errno
        return 0 if result is None else result

    def chain(self, links):
        """Each starts when the one before has succeeded; a short read or write has not, a failed rename has."""
        results = []
        is_broken = False
        for name, *arguments in links:
            if is_broken:
                if name == "write":
                    self.n_written += 1
                results.append((-errno.ECANCELED, None))
                continue
            result = self.single(name, *arguments)
            results.append((result, self.details))
            if name in BREAKING or result == -errno.EBADF:
                is_broken = result < 0 or (name in ("read", "write") and result < arguments[1])
        return results

    def do_openat(self, name, flags):
        fd = os.open(self.path(name), flags, 0o644, dir_fd=self.folder)
        self.fds.append(fd)
        return 0

    def do_read(self, number, size, offset):
        self.details = os.pread(self.fd(number), size, offset)
        return len(self.details)

    def do_write(self, number, size, offset):
        return os.pwrite(self.fd(number), self.data(size), offset)

    def do_statx(self, name):
        found = os.stat(self.path(name), dir_fd=self.folder, follow_symlinks=False)
        self.details = stat.filemode(found.st_mode), found.st_size if stat.S_ISREG(found.st_mode) else None

    def do_mkdirat(self, name):
        os.mkdir(self.path(name), 0o755, dir_fd=self.folder)

    def do_unlinkat(self, name):
        os.unlink(self.path(name), dir_fd=self.folder)

    def do_rmdir(self, name):
        os.rmdir(self.path(name), dir_fd=self.folder)

    def do_renameat(self, old, new):
        os.rename(self.path(old), self.path(new), src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def do_linkat(self, old, new):
        os.link(
            self.path(old),
            self.path(new),
            src_dir_fd=self.folder,
            dst_dir_fd=self.folder,
            follow_symlinks=False,
        )

    def do_symlinkat(self, target, new):
        os.symlink(self.path(target), self.path(new), dir_fd=self.folder)

    def do_fsync(self, number):
        os.fsync(self.fd(number))

    def do_nop(self):
        pass

    def do_bad_close(self):
        os.close(1 << 20)

    def close(self, number):
        fd = self.fds.pop(number % len(self.fds))
        os.close(fd)
        return 0

    def pipe(self, what, how):
        """A request that has to wait, unless the pipe is ready, and what ends it."""
        ends = {
            "data": (3, b"abc"),
            "ready": (3, b"abc"),
            "end": (0, b""),
            "cancel": (-errno.ECANCELED, None),
        }
        polled = {
            "data": select.POLLIN,
            "ready": select.POLLIN,
            "end": select.POLLHUP,
            "cancel": -errno.ECANCELED,
        }
        return ends[how] if what == "read" else (polled[how], None)

    def timeout(self):
        return -errno.ETIME


class Requests(Calls):
    """The same by requests."""

    def __init__(self, folder, loop):
        from uringloop.liburing import ffi, lib

        super().__init__(folder)
        self.loop = loop
        self.ffi, self.lib = ffi, lib

    def finished(self, request):
        """Turns until it has a result; awaited, so that a failure is not reported as forgotten."""

        async def wait():
            try:
                return await request
            except OSError as error:
                return -error.errno

        return self.loop.run_until_complete(wait())

    def single(self, name, *arguments):
        result, self.details = self.together([(name, *arguments)])[0]
        return result

    def together(self, calls):
        prepared = [self.prepared(name, *arguments) for name, *arguments in calls]
        requests = [self.loop.add_sqe(*prep) for prep, _ in prepared]
        return self.results(requests, prepared)

    def chain(self, links):
        prepared = [self.prepared(name, *arguments) for name, *arguments in links]
        requests = self.loop.add_sqes([prep for prep, _ in prepared])
        return self.results(requests, prepared)

    def results(self, requests, prepared):
        found = []
        for request, (_, finish) in zip(requests, prepared, strict=True):
            result, details = self.finished(request), None
            if result >= 0 and finish is not None:
                result, details = finish(result)
            found.append((result, details))
        return found

    def prepared(self, name, *arguments):
        """((prep, *arguments), what makes of the result what the system call shows)."""
        lib, ffi, folder = self.lib, self.ffi, self.folder
        if name == "openat":

            def opened(fd):
                self.fds.append(fd)
                return 0, None

            return (lib.io_uring_prep_openat, folder, self.path(arguments[0]), arguments[1], 0o644), opened
        if name == "read":
            memory = bytearray(arguments[1])
            buffer = ffi.from_buffer(memory)
            call = (lib.io_uring_prep_read, self.fd(arguments[0]), buffer, len(memory), arguments[2])
            return call, lambda count: (count, bytes(memory[:count]))
        if name == "write":
            data = self.data(arguments[1])
            return (lib.io_uring_prep_write, self.fd(arguments[0]), data, len(data), arguments[2]), None
        if name == "statx":
            memory = ffi.new("char[]", 256)
            mask = 0x7FF  # STATX_BASIC_STATS
            call = (lib.io_uring_prep_statx, folder, self.path(arguments[0]), 0x100, mask)
            return (*call, ffi.cast("struct statx *", memory)), lambda _: (0, self.stat_of(memory))
        if name in ("linkat", "renameat"):
            old, new = (self.path(one) for one in arguments)
            return (getattr(lib, f"io_uring_prep_{name}"), folder, old, folder, new, 0), None
        if name == "symlinkat":
            return (
                lib.io_uring_prep_symlinkat,
                self.path(arguments[0]),
                folder,
                self.path(arguments[1]),
            ), None
        calls = {
            "mkdirat": lambda name: (lib.io_uring_prep_mkdirat, folder, self.path(name), 0o755),
            "unlinkat": lambda name: (lib.io_uring_prep_unlinkat, folder, self.path(name), 0),
            "rmdir": lambda name: (
                lib.io_uring_prep_unlinkat,
                folder,
                self.path(name),
                0x200,
            ),  # AT_REMOVEDIR
            "fsync": lambda number: (lib.io_uring_prep_fsync, self.fd(number), 0),
            "nop": lambda: (lib.io_uring_prep_nop,),
            "bad_close": lambda: (lib.io_uring_prep_close, 1 << 20),
        }
        return calls[name](*arguments), None

    def stat_of(self, memory):
        raw = bytes(self.ffi.buffer(memory))
        mode = int.from_bytes(raw[28:30], "little")
        return stat.filemode(mode), int.from_bytes(raw[40:48], "little") if stat.S_ISREG(mode) else None

    def close(self, number):
        fd = self.fds.pop(number % len(self.fds))
        return self.finished(self.loop.add_sqe(self.lib.io_uring_prep_close, fd))

    def pipe(self, what, how):
        reader, writer = os.pipe()
        memory = bytearray(10)
        if how == "ready":
            os.write(writer, b"abc")
        if what == "read":
            request = self.loop.add_sqe(
                self.lib.io_uring_prep_read, reader, self.ffi.from_buffer(memory), len(memory), 0
            )
        else:
            request = self.loop.add_sqe(self.lib.io_uring_prep_poll_add, reader, select.POLLIN)
        for _ in range(3):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        assert request.done() == (how == "ready")
        if how == "data":
            os.write(writer, b"abc")
        elif how == "end":
            os.close(writer)
        elif how == "cancel":
            request.cancel()
        result = self.finished(request)
        os.close(reader)
        if how != "end":
            os.close(writer)
        return result, bytes(memory[:result]) if what == "read" and result >= 0 else None

    def timeout(self):
        limit = self.ffi.new("struct __kernel_timespec *", {"tv_sec": 0, "tv_nsec": 1})
        return self.finished(self.loop.add_sqe(self.lib.io_uring_prep_timeout, limit, 0, 0))


class RequestsMachine(Machine):
    name = "requests"
    programs = PROGRAMS
    monitors = ("io_uring",) if HAS_CFFI else ()

    def run(self, world, program):
        path = world.closing.enter_context(tempfile.TemporaryDirectory())
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        world.closing.callback(os.close, folder)
        calls = Calls(folder) if world.name == STOCK else Requests(folder, world.loop)
        try:
            for name, *arguments in program:
                self.take(world, calls, name, arguments)
            for root, folders, files in sorted(os.walk(path)):
                world.add("at the end:", os.path.relpath(root, path), sorted(folders), sorted(files))
        finally:
            for fd in calls.fds:
                os.close(fd)

    def take(self, world, calls, name, arguments):
        if name == "chain":
            world.add("chain", calls.chain(arguments[0]))
        elif name == "together" and isinstance(calls, Requests):
            world.add(name, calls.together(arguments[0]))
        elif name == "together":
            world.add(name, [(calls.single(*one), calls.details) for one in arguments[0]])
        elif name == "close":
            if calls.fds:
                world.add(name, calls.close(*arguments))
        elif name in ("pipe", "timeout"):
            world.add(name, getattr(calls, name)(*arguments))
        else:
            world.add(name, calls.single(name, *arguments), calls.details)


MACHINE = RequestsMachine()
