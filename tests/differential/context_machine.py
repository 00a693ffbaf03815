"""AioContext: bottom halves, timers and a handler of a descriptor, against a model of its turns."""

import contextlib
import select
import socket
import time

from hypothesis import strategies as st
from support.helpers import STOCK

import uringloop

from .comparing import Machine

NUMBERS = st.integers(0, 4)
FAR_NS = 10**18

LEAVES = st.one_of(
    st.tuples(
        st.sampled_from(["schedule", "schedule", "schedule", "cancel", "delete", "scheduled"]), NUMBERS
    ),
    st.tuples(st.just("cancel_timer"), NUMBERS),
    st.tuples(st.sampled_from(["send", "receive", "close_far", "unwatch", "notify"])),
)


def with_callbacks(actions):
    lists = st.lists(actions, max_size=3)
    return st.one_of(
        LEAVES,
        LEAVES,
        st.tuples(st.sampled_from(["new", "one_shot"]), lists),
        st.tuples(st.just("timer"), st.sampled_from([1, 2, 3, FAR_NS]), lists),
        st.tuples(st.just("watch"), st.none() | lists, st.none() | lists),
    )


ACTIONS = with_callbacks(with_callbacks(LEAVES))
PROGRAMS = st.lists(st.one_of(ACTIONS, ACTIONS, st.tuples(st.just("poll"))), min_size=8, max_size=40)


class ModelBottomHalf:
    """At most once in the queue, where it stays when it is cancelled."""

    def __init__(self, context, callback):
        self.context, self.callback = context, callback
        self.scheduled = self.is_queued = self.deleted = False

    def schedule(self):
        if self.deleted:
            raise RuntimeError
        self.scheduled = True
        if not self.is_queued:
            self.is_queued = True
            self.context.ready.append(self)

    def cancel(self):
        self.scheduled = False

    def delete(self):
        self.deleted = True
        self.scheduled = False

    def run(self):
        self.is_queued = False
        if self.scheduled:
            self.scheduled = False
            self.callback()
            return True
        return False


class ModelTimer:
    def __init__(self, when_ns, callback):
        self.when_ns, self.callback, self.is_cancelled = when_ns, callback, False

    def cancel(self):
        self.is_cancelled = True


class ModelHandler:
    def __init__(self, fd, io_read, io_write):
        self.fd, self.io_read, self.io_write = fd, io_read, io_write


class Model:
    """The turn of an AioContext: what was ready at its beginning, then the descriptor, then timers that are due."""

    def __init__(self):
        self.ready, self.timers, self.handler = [], [], None

    def new_bottom_half(self, callback):
        return ModelBottomHalf(self, callback)

    def schedule_one_shot(self, callback):
        bottom_half = ModelBottomHalf(self, callback)
        bottom_half.schedule()
        return bottom_half

    def call_at_ns(self, when_ns, callback):
        self.timers.append(ModelTimer(when_ns, callback))
        return self.timers[-1]

    def set_fd_handler(self, fd, io_read, io_write):
        self.handler = ModelHandler(fd, io_read, io_write) if io_read or io_write else None

    def notify(self):
        pass

    def poll(self, blocking):
        has_run = False
        n_ready = len(self.ready)
        handler, events = self.handler, 0
        if handler is not None:
            poller = select.poll()
            wanted = (select.POLLIN if handler.io_read else 0) | (select.POLLOUT if handler.io_write else 0)
            poller.register(handler.fd, wanted)
            events = sum(found for _, found in poller.poll(0))
        now_ns = time.monotonic_ns()
        due = sorted(
            (timer for timer in self.timers if timer.when_ns <= now_ns), key=lambda timer: timer.when_ns
        )
        self.timers = [timer for timer in self.timers if timer not in due]
        for _ in range(n_ready):
            has_run |= self.ready.pop(0).run()
        if events and handler is self.handler:
            has_run = True
            if handler.io_read and events & ~select.POLLOUT:
                handler.io_read()
            if handler.io_write and events & ~select.POLLIN and handler is self.handler:
                handler.io_write()
        for timer in due:
            if not timer.is_cancelled:
                has_run = True
                timer.callback()
        return has_run

    def close(self):
        pass


class Interpreter:
    def __init__(self, world, context):
        self.world, self.context = world, context
        self.bottom_halves, self.timers = [], []
        self.count = 0
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            end.setblocking(False)
            world.closing.callback(end.close)

    def callback(self, actions, kind):
        if actions is None:
            return None
        self.count += 1
        label = f"#{self.count} {kind}"

        def run():
            self.world.add(label)
            for action in actions:
                self.do(action)

        return run

    def do(self, action):
        getattr(self, "do_" + action[0])(*action[1:])

    def do_poll(self):
        self.world.add("poll returns", self.context.poll(False))

    def do_new(self, actions):
        self.bottom_halves.append(self.context.new_bottom_half(self.callback(actions, "bottom half")))

    def do_one_shot(self, actions):
        self.context.schedule_one_shot(self.callback(actions, "one shot"))

    def on_bottom_half(self, number, name):
        if self.bottom_halves:
            bottom_half = self.bottom_halves[number % len(self.bottom_halves)]
            if not bottom_half.deleted:
                getattr(bottom_half, name)()
            self.world.add(name, bottom_half.scheduled, bottom_half.deleted)

    def do_schedule(self, number):
        self.on_bottom_half(number, "schedule")

    def do_cancel(self, number):
        self.on_bottom_half(number, "cancel")

    def do_delete(self, number):
        self.on_bottom_half(number, "delete")

    def do_scheduled(self, number):
        if self.bottom_halves:
            self.world.add("scheduled", self.bottom_halves[number % len(self.bottom_halves)].scheduled)

    def do_timer(self, when_ns, actions):
        self.timers.append(self.context.call_at_ns(when_ns, self.callback(actions, f"timer {when_ns}")))

    def do_cancel_timer(self, number):
        if self.timers:
            self.timers[number % len(self.timers)].cancel()

    def do_watch(self, read_actions, write_actions):
        self.context.set_fd_handler(
            self.near.fileno(), self.callback(read_actions, "read"), self.callback(write_actions, "write")
        )

    def do_unwatch(self):
        self.context.set_fd_handler(self.near.fileno(), None, None)

    def do_send(self):
        with contextlib.suppress(OSError):
            self.far.send(b"x")

    def do_receive(self):
        with contextlib.suppress(OSError):
            self.world.add("received", self.near.recv(100))

    def do_close_far(self):
        self.far.close()

    def do_notify(self):
        self.context.notify()


class ContextMachine(Machine):
    name = "context"
    programs = PROGRAMS

    def run(self, world, program):
        context = Model() if world.name == STOCK else uringloop.AioContext(world.name)
        try:
            interpreter = Interpreter(world, context)
            # the ring's own start is not a part of the program
            while context.poll(False):
                pass
            for action in program:
                interpreter.do(action)
            for _ in range(3):
                interpreter.do_poll()
            interpreter.do_unwatch()
        finally:
            context.close()


MACHINE = ContextMachine()
