"""All ways to use uringloop in an application, accepted by `mypy --strict`; it also runs."""

import asyncio
import sys
import warnings
from typing import assert_type

import uringloop
from uringloop import MonitorUnavailable, UringLoopError


async def monitor() -> str:
    loop = uringloop.get_running_loop()
    assert_type(loop, uringloop.Loop)
    return loop.fdmon


def by_factory() -> str:
    with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
        return runner.run(monitor())


def by_hand() -> str:
    loop = uringloop.new_event_loop(fdmon="poll")
    assert_type(loop, uringloop.Loop)
    try:
        return loop.run_until_complete(monitor())
    finally:
        loop.close()


def by_class() -> str:
    loop: asyncio.AbstractEventLoop = uringloop.Loop("epoll")
    try:
        return loop.run_until_complete(monitor())
    finally:
        loop.close()


def by_policy() -> str:
    if sys.version_info >= (3, 16):
        return "poll"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uringloop.EventLoopPolicy())
        try:
            return asyncio.run(monitor())
        finally:
            asyncio.set_event_loop_policy(None)


def why_not(fdmon: str) -> str | None:
    try:
        uringloop.new_event_loop(fdmon).close()
    except MonitorUnavailable as error:
        failure: UringLoopError = error
        assert_type(error.monitor, str)
        return f"{failure}; {error.errno_name}: {error.cause}"
    return None


if __name__ == "__main__":
    assert by_hand() == "poll"
    assert by_class() == "epoll"
    assert by_factory() == by_policy()
    assert why_not("poll") is None
    assert uringloop.__version__
