"""Violations in modules that need liburing; see `violations`."""

from cpython.ref cimport Py_DECREF

from uringloop.aiocontext.context cimport AioContext
from uringloop.fdmon.base cimport FdHandler, ReadyList
from uringloop.fdmon.io_uring cimport IoUringMonitor, PollRequest
from uringloop.liburing.liburing cimport *
from uringloop.requests.request cimport ContextRequest
from uringloop.requests.submit cimport Scratch, put_back, take_scratch
from uringloop.transports.stream.ring_wire cimport RingWire, SendRequest
from uringloop.transports.stream.wire cimport WireEnd
from uringloop.uring.buffers cimport BufferRing
from uringloop.uring.completions cimport CompletionFifo
from uringloop.uring.engine cimport Engine
from uringloop.uring.request cimport IN_FLIGHT, InFlight, Request, hold, release
from uringloop.uring.ring cimport Ring

import os
import threading


cdef Request held(InFlight owner):
    cdef io_uring_sqe sqe
    cdef Request request = Request.__new__(Request)
    hold(request, owner, &sqe)
    return request


def hold_request_in_flight():
    cdef io_uring_sqe sqe
    cdef Request request = Request.__new__(Request)
    request.state = IN_FLIGHT
    hold(request, InFlight(), &sqe)


def release_more_than_is_counted():
    cdef InFlight owner = InFlight()
    cdef Request request = held(owner)
    owner.count = 0
    release(request)


def release_by_another_list():
    cdef InFlight owner = InFlight()
    cdef Request request = held(owner)
    request.owner = InFlight()
    request.owner.count = 1
    release(request)


def free_request_in_flight():
    cdef InFlight owner = InFlight()
    cdef Request request = held(owner)
    Py_DECREF(request)  # the reference of hold()
    request = None


def dispatch_from_empty_fifo():
    CompletionFifo().pop()


def give_back_buffer_twice():
    cdef BufferRing buffers = BufferRing(Ring())
    buffers.take(1, IORING_CQE_F_BUFFER)
    buffers.give_back(IORING_CQE_F_BUFFER)
    buffers.give_back(IORING_CQE_F_BUFFER)


def enter_ring_of_another_thread():
    cdef Ring ring = Ring()
    ring.enable()

    def enter():
        ring.enter(0, -1)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()


def settle_send_with_completion():
    cdef Engine engine = Engine()
    engine.add_skip_send(Request.__new__(Request), engine.get_sqe())


def arm_handler_by_another_ones_request():
    cdef IoUringMonitor monitor = IoUringMonitor()
    cdef FdHandler handler = FdHandler(0, 1)
    handler.fd = os.pipe()[0]
    monitor.update(None, handler)
    handler.arming = PollRequest(FdHandler(1, 1), monitor)
    monitor.begin_run()
    monitor.wait(ReadyList(), 0)


def finish_request_twice():
    cdef ContextRequest request = ContextRequest.__new__(ContextRequest)
    request.is_over = True
    request.finish()


def use_scratch_twice():
    cdef Scratch scratch = take_scratch(False)
    put_back(scratch, False)
    scratch.is_taken = True
    take_scratch(False)


cdef RingWire new_wire():
    cdef WireEnd end = WireEnd.__new__(WireEnd)
    end.aio_context = AioContext("io_uring")
    cdef RingWire wire = RingWire()
    wire.begin(end, -1)
    return wire


def settle_send_that_was_not_in_flight():
    new_wire().give_back(SendRequest())


def send_twice_at_a_time():
    cdef RingWire wire = new_wire()
    wire.send = SendRequest()
    wire.submit_send(True)
