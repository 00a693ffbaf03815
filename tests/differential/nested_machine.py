"""Nested runs, against asyncio's loop with a turn that may be made within a turn."""

import asyncio
import collections
import contextvars
import heapq
import selectors

from hypothesis import strategies as st
from support.helpers import STOCK

from .comparing import Machine
from .loop_machine import Interpreter, variable

NUMBERS = st.integers(0, 5)
PATIENT_TURNS = 8  # of a nested run; then the clock moves, and futures are done

LEAVES = st.one_of(
    st.tuples(st.just("cancel"), NUMBERS),
    st.tuples(st.just("future"), NUMBERS, st.sampled_from(["result", "exception", "cancel", "callback"])),
    st.tuples(st.sampled_from(["current", "state", "send", "receive", "remove_reader", "remove_writer"])),
    st.tuples(st.just("set_variable"), NUMBERS),
    st.tuples(st.just("raise"), st.sampled_from(["ValueError", "Stop"])),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 2])),
)
DELAYS = st.sampled_from([0, 1, 3])


def steps_of(actions):
    return st.one_of(
        st.tuples(st.just("turns"), st.integers(0, 3)),
        st.tuples(st.just("sleep"), DELAYS),
        st.tuples(st.just("future"), NUMBERS),
        st.tuples(st.just("current")),
        st.tuples(st.just("do"), st.lists(actions, min_size=1, max_size=2)),
        st.tuples(st.just("do"), st.lists(actions, min_size=1, max_size=2)),
    )


def with_callbacks(actions):
    lists = st.lists(actions, min_size=1, max_size=3)
    steps = st.lists(steps_of(actions), min_size=1, max_size=4)
    return st.one_of(
        LEAVES,
        st.tuples(st.sampled_from(["soon", "threadsafe", "context"]), lists),
        # the model cannot enter the context of a callback again that makes a nested run
        st.tuples(st.sampled_from(["reader", "writer"]), st.lists(LEAVES, min_size=1, max_size=3)),
        st.tuples(st.just("later"), DELAYS, lists),
        st.tuples(st.just("task"), steps),
        st.tuples(st.just("nested"), steps),
        st.tuples(st.just("nested"), steps),
    )


ACTIONS = with_callbacks(with_callbacks(with_callbacks(LEAVES)))
PROGRAMS = st.tuples(
    st.fixed_dictionaries({"kind": st.sampled_from(["unix", "tcp", "pipe"])}),
    st.lists(
        st.one_of(ACTIONS, ACTIONS, st.tuples(st.just("turn"), st.integers(1, 3))), min_size=6, max_size=20
    ),
)


class Reentrant(asyncio.SelectorEventLoop):
    """The model: a turn runs what was ready at its beginning, then dispatches events, then runs timers that are due.

    What a turn within it has taken is gone.
    """

    def __init__(self):
        super().__init__()
        self.n_taken = 0
        self.events = {}  # fd: handles of a reader and a writer
        self.due = collections.deque()

    def _process_events(self, event_list):
        for key, mask in event_list:
            reader, writer = key.data
            waiting = self.events.setdefault(key.fd, [None, None])  # each descriptor once
            waiting[0] = reader if mask & selectors.EVENT_READ else waiting[0]
            waiting[1] = writer if mask & selectors.EVENT_WRITE else waiting[1]

    def _run_once(self):
        end = self.n_taken + len(self._ready)
        self._process_events(self._selector.select(0))
        end_time = self.time() + self._clock_resolution
        while self._scheduled and self._scheduled[0]._when < end_time:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self.due.append(handle)
        while self._ready and self.n_taken < end:
            handle = self._ready.popleft()
            self.n_taken += 1
            self.run_one(handle)
        for _ in range(len(self.events)):
            if self.events:
                for handle in self.events.pop(next(iter(self.events))):
                    self.run_one(handle)
        while self.due:
            self.run_one(self.due.popleft())

    @staticmethod
    def run_one(handle):
        if handle is not None and not handle._cancelled:
            handle._run()

    def run_nested(self, awaitable):
        task = asyncio.ensure_future(awaitable, loop=self)
        current = asyncio.current_task(self)
        if current is not None:
            asyncio.tasks._leave_task(self, current)
        ended = []
        task.add_done_callback(ended.append)  # as run_until_complete(): the turn of this callback is the last
        try:
            while not ended:
                self._run_once()
        finally:
            if current is not None:
                asyncio.tasks._enter_task(self, current)
        return task.result()


class NestedInterpreter(Interpreter):
    depth = 0

    def do_nested(self, steps):
        if not self.loop.is_running() or self.depth == 6:
            return
        self.depth += 1
        label = self.label()
        task = self.loop.create_task(self.coroutine(steps, label), name=f"nested {label}")
        n_turns = 0
        is_over = False

        def limit():
            """After some turns everything happens for which the coroutine may wait."""
            nonlocal n_turns
            n_turns += 1
            if n_turns > PATIENT_TURNS:
                self.now += 1
                for future in self.futures:
                    if not future.done():
                        future.set_result("limit")
            if not is_over:
                self.loop.call_soon(limit)

        limit()
        self.world.add(label, "begins")
        try:
            self.world.add(label, "returned", self.loop.run_nested(task))
        except (Exception, asyncio.CancelledError) as error:
            self.world.add(label, "raised", error)
        is_over = True
        self.depth -= 1
        self.do_current()

    def do_current(self):
        task = asyncio.current_task(self.loop) if self.loop.is_running() else None
        self.world.add("current", task.get_name() if task else None, variable.get())

    async def step_current(self):
        self.do_current()

    def do_advance(self, seconds):
        self.top_advance(seconds)


class NestedMachine(Machine):
    name = "nested"
    programs = PROGRAMS

    def new_loop(self, name, loop_factory):
        return Reentrant() if name == STOCK else loop_factory(name)

    def run(self, world, program):
        options, actions = program
        contextvars.copy_context().run(self.run_in_context, world, options, actions)

    def run_in_context(self, world, options, actions):
        interpreter = NestedInterpreter(world, {**options, "clock": True, "debug": False})
        world.keep.append(interpreter)
        for action in actions:
            interpreter.top(action)
        interpreter.top(("turn", 4))
        interpreter.do_state()


MACHINE = NestedMachine()
