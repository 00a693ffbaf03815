"""Contexts that cannot be entered: the callback is reported, and the loop's own context is unchanged."""

import contextvars

import pytest
from support.helpers import one_turn, run, turn_until, turns

EXPECTS_LOOP_ERRORS = pytest.mark.expects_loop_errors


def schedule(loop, method, *arguments, context):
    when = {"call_soon": (), "call_soon_threadsafe": (), "call_later": (0,), "call_at": (0,)}[method]
    return getattr(loop, method)(*when, *arguments, context=context)


@EXPECTS_LOOP_ERRORS
@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
@pytest.mark.parametrize("n_arguments", [0, 1, 2, 3])
@pytest.mark.parametrize("what", ["entered", "number"])
def test_a_context_that_cannot_be_entered_is_reported_as_a_failing_callback(
    loop, loop_errors, caplog, method, n_arguments, what
):
    """Since Python 3.12 the exception handler runs in that context, too; as it cannot, asyncio logs the error."""
    context = contextvars.copy_context() if what == "entered" else 5
    ran = []

    def refused(*arguments):
        raise AssertionError("called without its context")

    def scenario():
        schedule(loop, method, refused, *range(n_arguments), context=context)
        schedule(loop, method, ran.append, 1, context=contextvars.Context())
        turn_until(loop, lambda: ran)
        one_turn(loop)

    if what == "entered":
        context.run(scenario)
    else:
        scenario()
    logged = [record.exc_text for record in caplog.records if record.name == "asyncio"]
    caplog.clear()  # the records keep the exception alive, which keeps the handle
    assert len(loop_errors) + len(logged) == 1
    if loop_errors:
        assert isinstance(loop_errors[0]["exception"], RuntimeError if what == "entered" else Exception)
        assert __name__.rpartition(".")[2] in loop_errors[0]["message"]
    else:
        assert what == "entered"
        assert "cannot enter context" in logged[0]
    assert ran == [1]


@EXPECTS_LOOP_ERRORS
def test_the_current_context_is_unchanged_after_a_context_that_could_not_be_entered(loop, loop_errors):
    """A context that was not entered is not exited either."""
    variable = contextvars.ContextVar("variable", default="outside")
    context = contextvars.copy_context()
    context.run(variable.set, "inside")
    seen = []

    async def main():
        loop.call_soon(print, context=5)
        await turns(3)
        seen.append(variable.get())
        variable.set("changed")
        await turns(3)
        seen.append(variable.get())

    async def start():
        await loop.create_task(main(), context=context)

    run(loop, start())
    assert seen == ["inside", "changed"]
    assert context[variable] == "changed"
    assert variable.get() == "outside"
    assert len(loop_errors) == 1
