"""Callbacks, timers, futures, tasks, readers and writers, executors, running and closing."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os

from hypothesis import strategies as st

from .comparing import Machine, pair

N_FUTURES = 3
variable = contextvars.ContextVar("variable", default=0)


class Stop(Exception):
    """A callback's own exception."""


RAISED = {
    "ValueError": ValueError,
    "Stop": Stop,
    "CancelledError": asyncio.CancelledError,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
}
NUMBERS = st.integers(0, 5)
DELAYS = st.sampled_from([-1, 0, 0.5, 1, 2, 3600])

# What callbacks and tasks do, and what is done while the loop does not run.
LEAVES = st.one_of(
    st.tuples(st.just("cancel"), NUMBERS),
    st.tuples(st.just("show"), NUMBERS),
    st.tuples(st.just("stop")),
    st.tuples(
        st.just("future"),
        NUMBERS,
        st.sampled_from(["result", "exception", "cancel", "callback", "uncallback"]),
    ),
    st.tuples(st.just("cancel_task"), NUMBERS),
    st.tuples(st.just("raise"), st.sampled_from([*RAISED])),
    st.tuples(st.just("handler"), st.sampled_from(["record", "raise", "default", "wrong"])),
    st.tuples(st.just("report")),
    st.tuples(st.just("run"), st.sampled_from(["forever", "future"])),
    st.tuples(st.just("close")),
    st.tuples(st.just("set_variable"), NUMBERS),
    st.tuples(st.just("state")),
    st.tuples(st.just("refused"), st.sampled_from(["soon", "later", "at", "reader", "coroutine"])),
    st.tuples(st.just("generator"), st.booleans()),
    st.tuples(st.just("send")),
    st.tuples(st.just("receive")),
    st.tuples(st.just("fill")),
    st.tuples(st.just("empty")),
    st.tuples(st.just("close_far")),
    st.tuples(st.just("close_near")),
    st.tuples(st.just("remove_reader")),
    st.tuples(st.just("remove_writer")),
)


def steps_of(actions):
    """What a coroutine does."""
    return st.one_of(
        st.tuples(st.just("turns"), st.integers(0, 3)),
        st.tuples(st.just("sleep"), DELAYS),
        st.tuples(st.sampled_from(["future", "awaited_task", "shield"]), NUMBERS),
        st.tuples(st.just("wait_for"), NUMBERS, st.one_of(st.none(), DELAYS)),
        st.tuples(st.just("timeout"), DELAYS, NUMBERS),
        st.tuples(st.just("gather"), st.lists(NUMBERS, max_size=3), st.booleans()),
        st.tuples(
            st.just("wait"),
            st.lists(NUMBERS, min_size=1, max_size=3),
            st.sampled_from(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]),
            st.one_of(st.none(), DELAYS),
        ),
        st.tuples(st.just("group"), NUMBERS),
        st.tuples(st.just("swallow"), NUMBERS),
        st.tuples(st.just("uncancel")),
        st.tuples(st.just("do"), st.lists(actions, min_size=1, max_size=2)),
        st.tuples(st.just("do"), st.lists(actions, min_size=1, max_size=2)),
    )


def with_callbacks(actions):
    """Actions, and those with callbacks that do them."""
    lists = st.lists(actions, max_size=3)
    steps = st.lists(steps_of(actions), min_size=1, max_size=4)
    callbacks = st.tuples(st.sampled_from(["soon", "threadsafe", "context", "reader", "writer"]), lists)
    timers = st.tuples(st.sampled_from(["later", "at"]), DELAYS, lists)
    executors = st.tuples(st.just("executor"), st.sampled_from(["result", "exception", "refuse"]), lists)
    return st.one_of(
        LEAVES, callbacks, callbacks, timers, timers, executors, st.tuples(st.just("task"), steps)
    )


ACTIONS = with_callbacks(with_callbacks(LEAVES))

# Only while the loop does not run.
OUTSIDE = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("advance"), st.sampled_from([0.25, 1, 5])),
    st.tuples(st.just("run_until"), st.sampled_from(["future", "task", "coroutine"]), NUMBERS),
    st.tuples(st.just("shutdown")),
)

OPTIONS = st.fixed_dictionaries(
    {
        "debug": st.booleans(),
        "clock": st.booleans(),
        "kind": st.sampled_from(["unix", "tcp", "pipe", "pipe_writer"]),
    }
)

PROGRAMS = st.tuples(
    OPTIONS,
    st.lists(st.sampled_from([ACTIONS, ACTIONS, OUTSIDE]).flatmap(lambda one: one), min_size=12, max_size=40),
)


class Inline(concurrent.futures.Executor):
    """Runs at once, in the caller's thread."""

    def __init__(self, outcome):
        self.outcome = outcome

    def submit(self, function, /, *arguments):
        if self.outcome == "refuse":
            raise RuntimeError("refused")
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class Interpreter:
    """Carries out the actions of one program."""

    def __init__(self, world, options):
        self.world = world
        self.loop = world.loop
        self.count = 0  # of callbacks, timers, tasks: the label of each
        self.n_timers = 0
        self.handles = []
        self.tasks = []
        self.futures = [self.loop.create_future() for _ in range(N_FUTURES)]
        self.generators = []
        self.now = 1000.0
        self.has_clock = options["clock"]
        if self.has_clock:
            self.loop.time = lambda: self.now
        self.loop.set_debug(options["debug"])
        self.loop.slow_callback_duration = 1e9
        self.open_files(options["kind"])

    def open_files(self, kind):
        self.is_pipe = kind.startswith("pipe")
        if self.is_pipe:
            reader, writer = os.pipe2(os.O_NONBLOCK)
            ends = open(reader, "rb", 0), open(writer, "wb", 0)  # noqa: SIM115
            self.near, self.far = ends[::-1] if kind == "pipe_writer" else ends
        else:
            self.near, self.far = pair(kind)
        self.world.closing.callback(self.far.close)
        self.world.closing.callback(self.near.close)
        self.far_closed = self.near_closed = False

    # Callbacks

    def label(self):
        self.count += 1
        return f"#{self.count}"

    def callback(self, actions, kind):
        label = self.label()

        def callback(*arguments):
            self.world.add(label, kind, "runs", str(arguments), f"variable={variable.get()}")
            self.do_all(actions)

        callback.__qualname__ = callback.__name__ = "callback"
        return callback

    def do_all(self, actions):
        for action in actions:
            self.do(action)

    def do(self, action):
        getattr(self, "do_" + action[0])(*action[1:])

    def picked(self, things, number):
        return things[number % len(things)] if things else None

    # Scheduling

    def kept(self, handle):
        if handle is not None:
            self.handles.append(handle)

    def do_soon(self, actions):
        self.kept(
            self.world.attempt("soon", self.loop.call_soon, self.callback(actions, "soon"), 1, show=False)
        )

    def do_threadsafe(self, actions):
        callback = self.callback(actions, "threadsafe")
        self.kept(
            self.world.attempt("threadsafe", self.loop.call_soon_threadsafe, callback, 1, 2, show=False)
        )

    def do_context(self, actions):
        context = contextvars.copy_context()
        context.run(variable.set, self.count + 100)
        callback = self.callback(actions, "context")
        self.kept(self.world.attempt("context", self.loop.call_soon, callback, context=context, show=False))

    def later_s(self, delay):
        """Times differ: the order of equal ones is not specified."""
        self.n_timers += 1
        return delay + self.n_timers / 1024

    def do_later(self, delay, actions):
        if not self.has_clock:
            delay = 3600 if delay > 0 else -1
        callback = self.callback(actions, f"later({delay})")
        self.kept(
            self.world.attempt("later", self.loop.call_later, self.later_s(delay), callback, show=False)
        )

    def do_at(self, delay, actions):
        if not self.has_clock:
            delay = 3600 if delay > 0 else -3600
        when = self.later_s(delay) + (self.now if self.has_clock else self.loop.time())
        callback = self.callback(actions, f"at({delay})")
        self.kept(self.world.attempt("at", self.loop.call_at, when, callback, "x", show=False))

    def do_cancel(self, number):
        handle = self.picked(self.handles, number)
        if handle is not None:
            self.world.attempt("cancel", handle.cancel)

    def do_show(self, number):
        handle = self.picked(self.handles, number)
        if handle is not None:
            when = handle.when() if hasattr(handle, "when") and self.has_clock else None
            text = repr(handle) if self.has_clock or not hasattr(handle, "when") else ""
            self.world.add("handle", handle.cancelled(), when, text)

    def do_stop(self):
        self.world.attempt("stop", self.loop.stop)

    def do_refused(self, what):
        loop, attempt = self.loop, self.world.attempt

        async def coroutine():
            pass

        if what == "soon" and loop.get_debug():
            attempt("call_soon", loop.call_soon, None)
        elif what == "later":
            attempt("call_later", loop.call_later, None, print)
        elif what == "at":
            attempt("call_at", loop.call_at, None, print)
        elif what == "reader":
            attempt("add_reader", loop.add_reader, -1, print)
            attempt("remove_reader", loop.remove_reader, -1)
            attempt("add_writer", loop.add_writer, "x", print)
        elif what == "coroutine" and loop.get_debug():
            attempt("call_soon", loop.call_soon, coroutine)
            attempt("threadsafe", loop.call_soon_threadsafe, coroutine)
            attempt("executor", loop.run_in_executor, None, coroutine)

    # Files

    def do_reader(self, actions):
        callback = self.callback(actions, "reader")
        self.world.attempt("add_reader", self.loop.add_reader, self.near, callback, "r", show=False)

    def do_writer(self, actions):
        callback = self.callback(actions, "writer")
        self.world.attempt("add_writer", self.loop.add_writer, self.near, callback, "w", show=False)

    def do_remove_reader(self):
        self.world.attempt("remove_reader", self.loop.remove_reader, self.near)

    def do_remove_writer(self):
        self.world.attempt("remove_writer", self.loop.remove_writer, self.near)

    def moved(self, what, function, *arguments):
        try:
            result = function(*arguments)
        except (OSError, ValueError) as error:
            self.world.add(what, "raises", type(error).__name__)
        else:
            self.world.add(what, result)

    def read(self, file, count=1000):
        return file.read(count) if self.is_pipe else file.recv(count)

    def write(self, file, data):
        return file.write(data) if self.is_pipe else file.send(data)

    def do_send(self):
        self.moved("send", self.write, self.far, b"abc")

    def do_receive(self):
        self.moved("receive", self.read, self.near)

    def do_fill(self):
        """Until the kernel takes no more."""
        with contextlib.suppress(OSError, ValueError):
            while self.write(self.near, bytes(1 << 16)):
                pass

    def do_empty(self):
        with contextlib.suppress(OSError, ValueError):
            while self.read(self.far, 1 << 20):
                pass

    def do_close_far(self):
        self.far_closed = True
        self.far.close()

    def do_close_near(self):
        """Removed first: docs/differences.md says what else happens."""
        if not self.near_closed:
            self.near_closed = True
            self.do_remove_reader()
            self.do_remove_writer()
            self.near.close()

    # Futures and tasks

    def do_future(self, number, how):
        future = self.futures[number % N_FUTURES]
        attempt = self.world.attempt
        if how == "result":
            attempt("set_result", future.set_result, number)
        elif how == "exception":
            attempt("set_exception", future.set_exception, Stop(number))
        elif how == "cancel":
            attempt("cancel_future", future.cancel, "why")
        elif how == "callback":
            attempt("add_done_callback", future.add_done_callback, self.done, show=False)
        else:
            attempt("remove_done_callback", future.remove_done_callback, self.done)

    def done(self, future):
        self.world.add("future", self.futures.index(future), "is done")

    def start(self, coroutine, kind):
        label = self.label()
        try:
            task = self.loop.create_task(coroutine, name=f"{kind} {label}")
        except Exception as error:
            self.world.add("create_task raises", error)
            coroutine.close()
            return None
        self.tasks.append(task)
        task.add_done_callback(lambda task: self.finished(label, task))
        return task

    def finished(self, label, task):
        if task.cancelled():
            self.world.add(label, "is cancelled")
        elif task.exception() is not None:
            self.world.add(label, "raised", task.exception())
        else:
            self.world.add(label, "returned", task.result())

    def do_task(self, steps):
        self.start(self.coroutine(steps, f"#{self.count + 1}"), "task")

    def do_cancel_task(self, number):
        task = self.picked(self.tasks, number)
        if task is not None:
            self.world.attempt("cancel_task", task.cancel, "message")

    async def coroutine(self, steps, label):
        self.world.add(label, "starts", f"variable={variable.get()}")
        for step in steps:
            try:
                self.world.add(label, step[0], await getattr(self, "step_" + step[0])(*step[1:]))
            except (Exception, asyncio.CancelledError) as error:
                self.world.add(label, step[0], "raises", error)
                if isinstance(error, asyncio.CancelledError):
                    raise
        return label

    async def step_turns(self, count):
        for _ in range(count):
            await asyncio.sleep(0)

    async def step_sleep(self, delay):
        if not self.has_clock:
            delay = 3600 if delay > 0 else -1
        return await asyncio.sleep(self.later_s(delay), "slept")

    def awaited(self, number):
        """A future or a task that is not the current one."""
        things = [*self.futures, *self.tasks]
        chosen = things[number % len(things)]
        return self.futures[0] if chosen is asyncio.current_task() else chosen

    async def step_future(self, number):
        return await self.futures[number % N_FUTURES]

    async def step_awaited_task(self, number):
        return await self.awaited(number)

    async def step_shield(self, number):
        return await asyncio.shield(self.awaited(number))

    async def step_wait_for(self, number, timeout):
        return await asyncio.wait_for(self.awaited(number), self.bounded(timeout))

    def bounded(self, timeout):
        if timeout is None:
            return None
        if not self.has_clock:
            timeout = 3600 if timeout > 0 else -1
        return self.later_s(timeout)

    async def step_timeout(self, delay, number):
        async with asyncio.timeout(self.bounded(delay)) as timeout:
            try:
                return await self.awaited(number)
            finally:
                self.world.add("expired", timeout.expired(), repr(timeout) if self.has_clock else "")

    async def step_gather(self, numbers, with_exceptions):
        return await asyncio.gather(
            *(self.awaited(number) for number in numbers), return_exceptions=with_exceptions
        )

    async def step_wait(self, numbers, when, timeout):
        things = [self.awaited(number) for number in numbers]
        done, pending = await asyncio.wait(
            things, return_when=getattr(asyncio, when), timeout=self.bounded(timeout)
        )
        return [thing in done for thing in things], len(pending)

    async def step_group(self, number):
        async with asyncio.TaskGroup() as group:
            group.create_task(self.step_future(number))
            await asyncio.sleep(0)

    async def step_swallow(self, number):
        try:
            await self.awaited(number)
        except asyncio.CancelledError as error:
            self.world.add("swallowed", error, asyncio.current_task().cancelling())

    async def step_uncancel(self):
        return asyncio.current_task().uncancel()

    async def step_do(self, actions):
        self.do_all(actions)

    # The loop

    def do_raise(self, name):
        raise RAISED[name]("on purpose")

    def do_handler(self, kind):
        def failing(loop, context):
            self.world.handler(loop, context)
            raise Stop("in the handler")

        handlers = {"record": self.world.handler, "raise": failing, "default": None, "wrong": 5}
        self.world.attempt("set_exception_handler", self.loop.set_exception_handler, handlers[kind])

    def do_report(self):
        context = {"message": "reported", "exception": Stop("reported")}
        self.world.attempt("call_exception_handler", self.loop.call_exception_handler, context)

    def do_run(self, what):
        """Only while it runs, where it is refused."""
        if self.loop.is_running():
            if what == "forever":
                self.world.attempt("run_forever", self.loop.run_forever)
            else:
                self.world.attempt("run_until_complete", self.loop.run_until_complete, self.futures[0])

    def do_close(self):
        if self.loop.is_running() or self.far_closed:  # other programs go on
            self.world.attempt("close", self.loop.close)

    def do_set_variable(self, number):
        variable.set(number)

    def do_state(self):
        loop = self.loop
        self.world.add(
            "state", loop.is_running(), loop.is_closed(), loop.get_debug(), len(asyncio.all_tasks(loop))
        )
        self.world.attempt("get_running_loop", lambda: asyncio.get_running_loop() is loop)
        if self.has_clock:
            self.world.add("time", loop.time())

    def do_executor(self, outcome, actions):
        def function(*arguments):
            self.world.add("in the executor", str(arguments))
            self.do_all(actions)
            if outcome == "exception":
                raise Stop("in the executor")
            return "result"

        future = self.world.attempt(
            "run_in_executor", self.loop.run_in_executor, Inline(outcome), function, 1, show=False
        )
        if future is not None:
            label = self.label()
            future.add_done_callback(lambda future: self.finished(label, future))

    def do_generator(self, is_failing):
        async def generator():
            try:
                yield 1
                yield 2
            finally:
                self.world.add("generator ends")
                if is_failing:
                    raise Stop("in the generator")

        async def first():
            made = generator()
            self.generators.append(made)
            return await anext(made)

        self.start(first(), "generator")

    # While it does not run

    def top(self, action):
        try:
            if hasattr(self, "top_" + action[0]):
                getattr(self, "top_" + action[0])(*action[1:])
            else:
                self.do(action)
        except BaseException as error:
            self.world.add("leaves", error)

    def top_turn(self, count):
        for _ in range(count):
            self.world.add("turn")
            self.world.turn()

    def top_advance(self, seconds):
        self.now += seconds

    def top_run_until(self, what, number):
        left = 8

        def limit():
            nonlocal left
            left -= 1
            if left:
                self.loop.call_soon(limit)
            else:
                self.loop.stop()

        async def coroutine():
            await asyncio.sleep(0)
            return "done"

        if self.loop.is_closed():
            awaited = self.futures[0]
        elif what == "future":
            awaited = self.futures[number % N_FUTURES]
        elif what == "task":
            awaited = self.awaited_outside(number)
        else:
            awaited = coroutine()
        if not self.loop.is_closed():
            limit()
        try:
            self.world.attempt("run_until_complete", self.loop.run_until_complete, awaited)
        finally:
            left = 1

    def awaited_outside(self, number):
        things = [*self.tasks, *self.futures]
        return things[number % len(things)]

    def top_shutdown(self):
        if self.loop.is_closed():
            return
        self.world.attempt("shutdown_asyncgens", self.loop.run_until_complete, self.loop.shutdown_asyncgens())


class LoopMachine(Machine):
    name = "loop"
    programs = PROGRAMS

    def run(self, world, program):
        options, actions = program
        context = contextvars.copy_context()
        context.run(self.run_in_context, world, options, actions)

    def run_in_context(self, world, options, actions):
        interpreter = Interpreter(world, options)
        world.keep.append(interpreter)
        for action in actions:
            interpreter.top(action)
        interpreter.top(("turn", 4))
        interpreter.do_state()


MACHINE = LoopMachine()
