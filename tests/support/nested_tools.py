"""Tasks of both kinds, and coroutines to wait for, for the tests of nested runs."""

import asyncio
import contextvars
import sys

from support.helpers import turns

TASKS = [asyncio.Task, asyncio.tasks._PyTask]
var = contextvars.ContextVar("var", default="unset")


def use_tasks_of(kind, monkeypatch):
    """Since Python 3.14 the C and the Python module each have a current task and tasks of their own."""
    if sys.version_info >= (3, 14) and kind is not asyncio.Task:
        for owner in (asyncio, asyncio.tasks):
            monkeypatch.setattr(owner, "current_task", asyncio.tasks._py_current_task)
            monkeypatch.setattr(owner, "all_tasks", asyncio.tasks._py_all_tasks)


async def answer(value=42, count=3):
    await turns(count)
    return value


async def fail(error):
    await turns(2)
    raise error
