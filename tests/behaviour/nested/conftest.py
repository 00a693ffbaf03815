"""Fixtures that only the tests of nested runs use."""

import pytest
from support.nested_tools import TASKS, use_tasks_of


@pytest.fixture(params=TASKS, ids=["C", "Python"])
def any_task(request, loop, monkeypatch):
    """A loop whose tasks are those of the C module, or those of the Python module."""
    use_tasks_of(request.param, monkeypatch)
    loop.set_task_factory(lambda loop, coro, **kwargs: request.param(coro, loop=loop, **kwargs))
    return loop
