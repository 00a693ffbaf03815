"""One violation of each kind of invariant, for the test that assertions fire.

Each function violates an invariant and then runs the code that checks it.  In builds without assertions most of them
corrupt memory; HAS_ASSERTIONS is true in builds with assertions.

Not here: violations that need liburing (`ring_violations`).
"""

from libc.stdint cimport int64_t
from cpython.ref cimport PyObject

from uringloop.aio.bottom_halves cimport BottomHalf
from uringloop.aio.context_core cimport Flushable
from uringloop.aio.foreign_turns cimport ForeignTurns
from uringloop.aio.handles cimport Handle, TimerHandle
from uringloop.aio.notifier cimport Notifier
from uringloop.aio.poll_handlers cimport PollHandler, PollHandlers
from uringloop.aio.ready cimport ReadyQueue
from uringloop.aiocontext.context cimport AioContext
from uringloop.aio.timers cimport Timers
from uringloop.fdmon.base cimport FdHandler, ReadyList, check_held
from uringloop.fdmon.epoll cimport EpollMonitor
from uringloop.fdmon.poll cimport PollMonitor
from uringloop.fdmon.adaptive_polling cimport PolledEvent, PollList
from uringloop.support.references cimport References
from uringloop.transports.datagram.packets cimport Batch, DatagramQueue
from uringloop.transports.stream.transport cimport StreamTransport
from uringloop.transports.tls.protocol cimport TlsProtocol
from uringloop.transports.stream.wire cimport SendQueue, consume_bytes, push_chunk

import contextvars
import os

cdef extern from "../support/assertions.h":
    """
    static void ul_lose(PyObject *object) { Py_SET_REFCNT(object, 0); }
    """
    bint URINGLOOP_DEBUG
    void ul_lose(PyObject *object)

HAS_ASSERTIONS = bool(URINGLOOP_DEBUG)


def take_from_empty_ring():
    References().take()


def take_from_empty_ready_queue():
    ReadyQueue().pop()


def report_handler_twice():
    cdef ReadyList ready_list = ReadyList()
    cdef FdHandler handler = FdHandler(1, 1)
    ready_list.append(handler, 1)
    handler.is_queued = False
    ready_list.append(handler, 1)
    ready_list.pop()
    ready_list.pop()


def queue_handler_on_two_lists():
    cdef FdHandler handler = FdHandler(1, 1)
    ReadyList().append(handler, 1)
    ReadyList().append(handler, 1)


def lose_object_under_its_frame():
    cdef object one = Handle.__new__(Handle)
    ul_lose(<PyObject *>one)
    check_held(one)


cdef TimerHandle new_timer(int64_t when_ns):
    cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
    handle.when_ns = when_ns
    return handle


def let_timer_overtake_its_parent():
    cdef Timers timers = Timers()
    timers.push(new_timer(1))
    timers.push(new_timer(2))
    timers.heap[0].when_ns = 3
    timers.pop()


def push_timer_twice():
    cdef Timers timers = Timers()
    cdef TimerHandle handle = new_timer(1)
    timers.push(handle)
    timers.push(handle)


def cancel_more_timers_than_there_are():
    Timers().handle_cancelled()


def run_handle_without_arguments():
    cdef Handle handle = Handle.__new__(Handle)
    handle.callback = print
    handle.context = contextvars.copy_context()
    handle.n_args = -1
    handle.run()


def make_turn_that_is_not_counted():
    cdef AioContext context = AioContext("poll")
    context.turn(False)


def make_turn_in_another_thread():
    cdef AioContext context = AioContext("poll")
    context.n_polls = 1
    context.thread = 1
    context.turn(False)


def sleep_on_ready_fd():
    cdef AioContext context = AioContext("poll")
    context.ready_list.append(FdHandler(1, 1), 1)
    context.block(1)


def flush_what_is_not_dirty():
    cdef AioContext context = AioContext("poll")
    context.dirty.put(Flushable())
    context.flush_dirty()


def open_notifier_twice():
    Notifier().open()


def run_bottom_half_twice():
    cdef AioContext context = AioContext("poll")
    cdef BottomHalf bottom_half = context.new_bottom_half(print)
    bottom_half.schedule()
    bottom_half.is_queued = False
    bottom_half.schedule()
    context.poll(False)


def poll_running_handler():
    cdef PollHandlers handlers = PollHandlers(None)
    cdef PollHandler handler = PollHandler(-1, 0)
    handler.is_busy = True
    handlers.ask_one(handler, ReadyList())


def dispatch_more_often_than_begun():
    cdef AioContext context = AioContext("poll")
    cdef ForeignTurns turns = ForeignTurns(context)

    def forget_depth():
        turns.depth = 0

    context.schedule_one_shot(forget_depth)
    turns.dispatch(False)


def put_event_on_two_lists():
    cdef PolledEvent event = PolledEvent()
    PollList(100).set_ns(event, 1)
    event.ns = 1
    PollList(100).set_ns(event, 2)


def free_event_that_is_on_a_list():
    cdef PolledEvent event = PolledEvent()
    event.ns = 1
    event = None


def watch_for_removed_handler():
    cdef FdHandler handler = FdHandler(0, 1)
    handler.fd = os.pipe()[0]
    handler.is_removed = True
    PollMonitor().update(None, handler)


def withdraw_what_is_not_watched():
    cdef EpollMonitor monitor = EpollMonitor()
    monitor.reserve(1)
    monitor.withdraw(FdHandler(1, 1))


def send_more_than_is_queued():
    cdef SendQueue queue = SendQueue(NULL, 0, 0, 0)
    push_chunk(&queue, b"x")
    consume_bytes(&queue, 2)


def write_to_closed_transport():
    cdef StreamTransport transport = StreamTransport.__new__(StreamTransport)
    transport.write_chunk(b"x")


def send_from_empty_queue():
    DatagramQueue(0).send_named(-1)


def fill_full_batch():
    cdef Batch batch = Batch()
    batch.count = 64
    batch.keep(b"", None)


def pass_last_state_of_tls():
    cdef TlsProtocol tls = TlsProtocol.__new__(TlsProtocol)
    tls.state = 4
    tls.set_state(5)
