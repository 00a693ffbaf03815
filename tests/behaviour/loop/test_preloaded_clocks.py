"""A preloaded library that changes the clock, as libfaketime does: it runs a hundred times as fast."""

import os
import shutil
import subprocess
import sys
import textwrap
import time

import pytest
from support.helpers import TESTS

LIBRARY = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <poll.h>
    #include <stddef.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #define SPEED 100

    int clock_gettime(clockid_t clock, struct timespec *now)
    {
        long long ns;
        int result = syscall(SYS_clock_gettime, clock, now);
        if (clock == CLOCK_MONOTONIC && result == 0) {
            ns = (now->tv_sec * 1000000000LL + now->tv_nsec) * SPEED;
            now->tv_sec = ns / 1000000000;
            now->tv_nsec = ns % 1000000000;
        }
        return result;
    }

    int epoll_wait(int fd, struct epoll_event *events, int count, int timeout_ms)
    {
        int (*original)(int, struct epoll_event *, int, int) = dlsym(RTLD_NEXT, "epoll_wait");
        return original(fd, events, count, timeout_ms > 0 ? timeout_ms / SPEED + 1 : timeout_ms);
    }

    int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
    {
        int (*original)(struct pollfd *, nfds_t, int) = dlsym(RTLD_NEXT, "poll");
        return original(fds, count, timeout_ms > 0 ? timeout_ms / SPEED + 1 : timeout_ms);
    }

    int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
    {
        int (*original)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *) =
            dlsym(RTLD_NEXT, "ppoll");
        struct timespec real;
        if (timeout) {
            long long ns = (timeout->tv_sec * 1000000000LL + timeout->tv_nsec) / SPEED;
            real = (struct timespec){ns / 1000000000, ns % 1000000000};
        }
        return original(fds, count, timeout ? &real : NULL, mask);
    }
"""

SCRIPT = """
    import asyncio, sys, time
    sys.path.insert(0, sys.argv[2])
    from support.helpers import make_loop

    loop = make_loop(sys.argv[1])
    begun = loop.time()
    loop.run_until_complete(asyncio.sleep(100))
    assert loop.time() - begun >= 100
    assert abs(loop.time() - time.monotonic()) < 100
    loop.close()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The path of the library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("clock")
    source = folder / "clock.c"
    source.write_text(textwrap.dedent(LIBRARY))
    path = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source, "-ldl"], check=True)
    return str(path)


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan has to be preloaded first")
def test_a_sleep_takes_as_long_as_the_faked_clock_says(library, monitor):
    """100 faked seconds are one real second."""
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), monitor, str(TESTS)],
        check=True,
        timeout=60,
        env={**os.environ, "LD_PRELOAD": library},
    )
    assert 1 <= time.monotonic() - begun < 50
