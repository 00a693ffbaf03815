"""A plugin for pytest, `pytest -p uringloop.pytest`: tests run on uringloop.

It makes uringloop asyncio's default, as uringloop.adopt.make_default() does.  That is enough for pytest-asyncio,
anyio's plugin, pytest-aiohttp, unittest.IsolatedAsyncioTestCase and tests that call asyncio.run(): all of them make
asyncio's default loop unless the test suite names another.  It gives pytest-asyncio no loop factories: these would
change the names of the tests.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from . import Loop, __version__
from .adopt import make_default
from .fdmon import select

_REPORT = "uringloop-report"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("uringloop", "the event loop uringloop")
    names = [*select.NAMES, select.ANY]
    group.addoption(
        "--uringloop-fdmon", metavar="NAME", choices=names, help=f"the monitor: {', '.join(names)}"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """With -p, before anything of the test suite is imported, which may make loops."""
    _start(early_config, early_config.known_args_namespace.uringloop_fdmon)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """If it is in `pytest_plugins` of a conftest.py."""
    _start(config, config.option.uringloop_fdmon)


def _start(config: pytest.Config, fdmon: str | None) -> None:
    if config.pluginmanager.has_plugin(_REPORT):
        return
    if fdmon is not None:
        os.environ[select.ENVIRONMENT] = fdmon  # for processes that tests start, too
    make_default()
    try:
        loop = asyncio.new_event_loop()
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"uringloop: {error}") from error
    try:
        if isinstance(loop, Loop):
            found = f"{loop.fdmon}{f' ({loop.fdmon_reason})' if loop.fdmon_reason else ''}"
        else:
            found = f"not the default: the event-loop policy makes {type(loop).__qualname__}"
    finally:
        loop.close()
    config.pluginmanager.register(_Report(found), _REPORT)


class _Report:
    def __init__(self, found: str) -> None:
        self._found = found

    def pytest_report_header(self) -> str:
        return f"uringloop: {__version__}, {self._found}"
