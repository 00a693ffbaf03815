"""The state of the process: everything that changes and outlives a loop, with who may touch it and under which lock.

Loops of one process share more than a loop's own fields: spare rings, scratch memory that is too large to have twice,
facts learned once about the kernel and about Python.  All of it is listed here, and nothing else may exist:
`tests/repository/test_process_state.py` finds the state that modules keep, by Cython's warnings for modules that
support sub-interpreters, by the syntax of Python modules and by the `static` variables of C, and compares.

What it is for:

* A free-threaded Python: what a GIL guards has a lock there, or is one per thread.
* Sub-interpreters: from Python 3.12 on each has its own state of Python and Cython modules (`support/interpreters.h`),
  whose guard is its own GIL.  State of C, in headers and in verbatim code, is shared by all of them.
* A change: before an entry is added here, check whether a loop or a context can have it.

These are data: nothing imports this module at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["COPIED_NAMES", "STATE", "CopiedName", "Guard", "State"]


class Guard(Enum):
    """What keeps two threads from touching it at once."""

    SECTION = "the GIL, which is kept until the thread has done with it; without one a critical section"
    LOCK = (
        "the GIL, in the same way; without one a lock that is held for a few instructions (support/guard.h)"
    )
    ITSELF = "the GIL; without one that of the dict, list or object: each use is one operation of it"
    NUMBER = "the GIL; without one nothing: a number, and threads that change it at once all write what holds"
    OWN_COPY = "the GIL, in the same way; without one each thread has its own"
    NONE_WITHOUT = "the GIL; without one there is none"
    IMPORT = "the import lock: set while the module is imported, only read afterwards"
    FIRST_USE = "none: set by the first thread that needs it, the same by whichever, only read afterwards"
    ATOMIC = "none: atomic operations, also without the GIL"
    THREAD = "none: each thread has its own"


@dataclass(frozen=True)
class State:
    """State that changes, or that exists once per process."""

    where: str  # the file, below uringloop/
    names: tuple[
        str, ...
    ]  # variables; freelist(Class): what Cython keeps of freed objects; globals(): names of the module
    what: str
    users: str  # who touches it, and when
    guard: Guard


@dataclass(frozen=True)
class CopiedName:
    """A name of another package, looked up once, when the module is imported; programs may replace it there."""

    where: str
    names: tuple[str, ...]
    source: str  # where it is from
    replaced: str  # what happens when a program replaces it there afterwards


STATE = (
    # -- rings -----------------------------------------------------------------------------------------------
    State(
        "uring/ring.pyx",
        ("spare_rings",),
        "empty rings of closed loops, for the next loop; an enabled one only for the thread that owns it",
        "any thread that makes or closes a loop; a fork child drops them",
        Guard.SECTION,
    ),
    State(
        "uring/ring_fds.h",
        ("ul_ring_bits", "ul_n_rings", "ul_highest_ring"),
        "fds of this process's rings: an SQE of a user may not send to them (requests/checks.pyx)",
        "any thread of any interpreter that opens or closes a ring, or fills an SQE for MSG_RING",
        Guard.ATOMIC,
    ),
    State(
        "uring/ring.pyx",
        ("owner_pid",),
        "whose the spare rings are: after a fork without hooks they are dropped",
        "any thread that takes a ring; a fork child",
        Guard.SECTION,
    ),
    State(
        "uring/ring.pyx",
        ("is_worth_waiting",),
        "a ring was made or closed since locked memory ran out last: some is on its way back",
        "any thread that makes or closes a ring; a pause between two attempts releases the GIL, and only delays "
        "what another thread has set meanwhile",
        Guard.ATOMIC,
    ),
    State(
        "liburing/compat.h",
        ("last",),
        "the highest number that a thread was given (`ul_thread_serial`), in each module that has the header; "
        "only uring/ring.pyx asks",
        "each thread, when it asks for the first time",
        Guard.ATOMIC,
    ),
    State(
        "support/guard.h",
        ("mine", "ul_memory_key", "ul_memory_once"),
        "memory that a module needs for a moment, in a Python without a GIL; freed with the thread",
        "the thread itself; the key is made once by whichever needs it first",
        Guard.THREAD,
    ),
    State("liburing/compat.h", ("mine",), "the number of this thread", "the thread itself", Guard.THREAD),
    State(
        "uring/engine.pyx",
        ("sends_report_count",),
        "whether a send may go without a completion on this kernel; -1 until asked",
        "any thread that begins to run its first loop with a ring",
        Guard.ATOMIC,
    ),
    State(
        "liburing/probing.py",
        ("_kept",),
        "the answer of `probe()`, with the pid that asked",
        "any thread that calls it; two at once ask twice, and keep either answer",
        Guard.ITSELF,
    ),
    State(
        "fdmon/select.py",
        ("_history", "_history.is_announced", "_history.all_named", "_history.has_warned"),
        "monitors that loops got: with io_uring among them the next loop must have it, too; what was logged",
        "any thread that makes a loop; a fork child starts clean",
        Guard.ITSELF,
    ),
    # -- what a sandbox refuses ------------------------------------------------------------------------------
    State(
        "fdmon/poll.pyx",
        ("has_ppoll",),
        "ppoll(2) is not refused",
        "the thread of any loop on poll, while it waits without the GIL",
        Guard.ATOMIC,
    ),
    State(
        "transports/stream/endpoint.pyx",
        ("has_accept4",),
        "accept4(2) is not refused",
        "the thread of any loop that accepts",
        Guard.NUMBER,
    ),
    State(
        "transports/datagram/packets.pyx",
        ("ul_has_recvmmsg", "ul_has_sendmmsg"),
        "recvmmsg(2), sendmmsg(2) are not refused",
        "the thread of any loop that has datagrams",
        Guard.NUMBER,
    ),
    State(
        "transports/stream/wire.pyx",
        ("is_shown",),
        "glibc was shown how large blocks get",
        "the thread of any loop that reads large chunks",
        Guard.ATOMIC,
    ),
    # -- memory that is used for a moment --------------------------------------------------------------------
    State(
        "transports/stream/wire.pyx",
        ("shared_staging",),
        "where small reads arrive; copied out before user code runs",
        "the thread of any loop whose streams are read by recv(2); allocated with the first of these",
        Guard.OWN_COPY,
    ),
    State(
        "transports/datagram/packets.pyx",
        ("shared_exchange",),
        "where a batch of datagrams arrives, copied out before user code runs; message headers of one sendmmsg(2)",
        "the thread of any loop that has datagrams; allocated with the first transport",
        Guard.OWN_COPY,
    ),
    State(
        "requests/submit.pyx",
        ("spare_scratches",),
        "memory for one SQE each; out of the list while a prep function, which is user code, has it",
        "the thread of any loop or context that adds SQEs",
        Guard.SECTION,
    ),
    State(
        "transports/addresses.pyx",
        ("known", "locks"),
        "the kernel's names of peers, with the tuple of each; a newcomer replaces what is in its place",
        "the thread of any loop that has datagrams or accepts",
        Guard.LOCK,
    ),
    State(
        "transports/addresses.pyx",
        ("names",),
        "address tuples, with the kernel's name of each; keeps its tuples alive",
        "the thread of any loop that sends datagrams",
        Guard.LOCK,
    ),
    State(
        "aio/handles.pyx",
        ("freelist(Handle)",),
        "freed handles, for the next",
        "any thread",
        Guard.NONE_WITHOUT,
    ),
    State("requests/request.pyx", ("freelist(Cqe)",), "the same for `Cqe`", "any thread", Guard.NONE_WITHOUT),
    State(
        "requests/awaiting.pyx",
        ("freelist(RequestWait)",),
        "the same for `RequestWait`",
        "any thread",
        Guard.NONE_WITHOUT,
    ),
    State(
        "transports/stream/endpoint.pyx",
        ("freelist(Connection)",),
        "the same for `Connection`",
        "any thread",
        Guard.NONE_WITHOUT,
    ),
    # -- registries ------------------------------------------------------------------------------------------
    State(
        "aio/context_core.pyx",
        ("live_contexts", "forget_context"),
        "all contexts, weakly: for a fork, an exec and the end of the process",
        "any thread that makes a context, forks, starts or ends a process",
        Guard.ITSELF,
    ),
    State(
        "eventloop/loop.py",
        ("_live_loops",),
        "all loops, weakly: a fork child parts them from the parent",
        "any thread that makes a loop; a fork child",
        Guard.ITSELF,
    ),
    State(
        "eventloop/loop.py",
        ("_observers",),
        "what exporters, watches and views call with each new loop",
        "any thread that makes a loop, or starts or ends an exporter, or offers a view",
        Guard.ITSELF,
    ),
    State(
        "observing/each_loop.py",
        ("_numbers", "_lock"),
        "the numbers of loops in metrics, weakly",
        "any thread that starts or reads an exporter; the lock keeps two loops from one number; a fork child renews it",
        Guard.ITSELF,
    ),
    State(
        "observing/stalls.py",
        ("_watches",),
        "the open watches for stalls, weakly: a fork child begins their threads again",
        "any thread that begins or ends a watch; a fork child",
        Guard.ITSELF,
    ),
    State(
        "observing/opentelemetry.py",
        ("_published",),
        "what the instruments of each meter provider read: OpenTelemetry takes none back",
        "any thread that starts an exporter",
        Guard.ITSELF,
    ),
    State(
        "observing/opentelemetry.py",
        ("_noting",),
        "which spans each thread began last, for each tracer provider: OpenTelemetry takes no span processor back",
        "any thread that starts an exporter",
        Guard.ITSELF,
    ),
    State(
        "observing/view.py",
        ("_offered", "_offering", "_open_views"),
        "the view that $URINGLOOP_TOP offers; all views, weakly, for a fork and the end of the process",
        "any thread that makes a loop, or offers or closes a view; a lock keeps two loops from offering two; a fork "
        "child renews it",
        Guard.ITSELF,
    ),
    # -- groups of loops -----------------------------------------------------------------------------------------
    State(
        "group/members.py",
        ("_running",),
        "members of LoopGroups that may still run: they end when the program does",
        "the loop of a group that starts a member; the main thread at its end",
        Guard.ITSELF,
    ),
    State(
        "gcpolicy.py",
        ("_collector",),
        "the last garbage-collection policy's, so that the process has one at a time; it has changed gc's thresholds",
        "any thread that calls gc_policy(); a fork child ends it",
        Guard.ITSELF,
    ),
    State(
        "aio/context_core.pyx",
        ("is_watching",),
        "whether the hooks for audit, fork and exit were installed",
        "any thread that makes a context",
        Guard.SECTION,
    ),
    State(
        "aio/audit.h",
        ("ul_before_leaving",),
        "what the audit hook calls, in an interpreter that has contexts; set before the hook is added",
        "any thread that makes the first context; each audit event that matters, in any thread of any interpreter",
        Guard.ATOMIC,
    ),
    State(
        "eventloop/nested/mode.py",
        ("_stock", "allow_nested: setattr()", "disallow_nested: setattr()"),
        "what `allow_nested()` has replaced in asyncio: `asyncio.run`, `asyncio.runners.run`, `asyncio.Runner.run`",
        "a thread that calls allow_nested() or disallow_nested(); all loops read whether it is empty",
        Guard.ITSELF,
    ),
    State(
        "__init__.py",
        ("globals()",),
        "public names that are made or loaded on first access",
        "any thread; of the policy classes that two at once make, the first is kept",
        Guard.ITSELF,
    ),
    State(
        "pytest.py",
        ("os",),
        "`URINGLOOP_FDMON` in the environment, from --uringloop-fdmon",
        "pytest, before it imports the tests",
        Guard.ITSELF,
    ),
    State(
        "gunicorn.py",
        ("globals()",),
        "worker classes that were made on first access",
        "gunicorn, before it forks",
        Guard.ITSELF,
    ),
    State(
        "liburing/__init__.py",
        ("globals()",),
        "`ffi`, `lib`, the enums and `probe`, loaded on first access",
        "any thread",
        Guard.FIRST_USE,
    ),
    # -- what was found out once -----------------------------------------------------------------------------
    State(
        "support/clock.h",
        ("is_interposed",),
        "whether a preloaded library stands before the clock; -1 until asked.  In each module that includes the header",
        "the thread of any loop that is about to wait",
        Guard.FIRST_USE,
    ),
    State(
        "eventloop/base/stock_clock.h",
        ("ul_n_changes",),
        "how often a dict that leads to asyncio's clock has changed, in any interpreter",
        "a change of asyncio.base_events or of `time` in any thread; the thread of any loop",
        Guard.ATOMIC,
    ),
    State(
        "eventloop/base/loop_core.pyx",
        ("clock",),
        "whether asyncio's clock is `time.monotonic`: what was found last, and what shows that it is out of date",
        "the thread of any loop",
        Guard.ATOMIC,
    ),
    State(
        "eventloop/base/loop_core.pyx",
        ("kept_for_clock",),
        "a reference to each object that `clock` has; grows when `time.monotonic` is found after the import",
        "the thread of any loop",
        Guard.ITSELF,
    ),
    State(
        "eventloop/base/loop_core.pyx",
        ("known_names",),
        "the last tuple of keyword names that held only `context`; owned.  Without a GIL the first one, for good",
        "any thread that calls call_soon() or call_later()",
        Guard.ATOMIC,
    ),
    State(
        "eventloop/base/loop_core.pyx",
        ("known_task_names", "task_names_after_known"),
        "the last tuple of keyword names of create_task(), owned; and those for the class of tasks.  Without a GIL the "
        "first one, for good",
        "any thread that calls create_task()",
        Guard.SECTION,
    ),
    State(
        "eventloop/base/loop_core.pyx",
        ("base_class_tag",),
        "the version of asyncio.BaseEventLoop whose create_task() was its own",
        "any thread that calls create_task()",
        Guard.NUMBER,
    ),
    State(
        "transports/stream/transport.pyx",
        ("server_tag",),
        "the version of asyncio.Server whose methods were its own",
        "any thread whose loop serves",
        Guard.NUMBER,
    ),
    State(
        "eventloop/lost_tasks.pyx",
        ("is_explored", "some_wakeup", "step_type", "context_word"),
        "what C tasks have and do not show; found with a task made for it",
        "the thread of a loop that has got a MemoryError",
        Guard.FIRST_USE,
    ),
    State(
        "eventloop/nested/levels.pyx",
        ("mark_word", "mark_mask"),
        "where a C task is marked as cancelled; found with a task made for it",
        "the thread of a loop whose task is cancelled while it runs nested",
        Guard.FIRST_USE,
    ),
    State(
        "requests/checks.pyx",
        ("OwnMemory", "BufferView", "as_buffer"),
        "cffi's types; the module is loaded by the first request",
        "the thread of any loop or context that adds SQEs",
        Guard.FIRST_USE,
    ),
    State(
        "files/choice.py",
        ("_kinds",),
        "classes of backends, loaded on first use",
        "the thread of any loop that uses files",
        Guard.FIRST_USE,
    ),
    State(
        "files/modes.py",
        ("_known",),
        "mode strings of open() and what they mean",
        "any thread that opens a file",
        Guard.ITSELF,
    ),
    State(
        "glib/native.pyx",
        ("main_context_type",),
        "PyGObject's GLib.MainContext; None until it and GLib's functions were found",
        "any thread that attaches a loop to GLib",
        Guard.FIRST_USE,
    ),
    State(
        "glib/glib_abi.h",
        ("ul_glib",),
        "GLib's functions",
        "set by any thread that attaches a loop to GLib; then read by all, also without the GIL",
        Guard.FIRST_USE,
    ),
    # -- set at import, in C -----------------------------------------------------------------------------------
    State(
        "support/interpreters.h",
        (
            "ul_main_state",
            "ul_ended_state",
            "ul_has_others",
            "ul_n_changes_made",
            "ul_homes",
            "ul_lock",
            "last",
        ),
        "the state of the module in the main interpreter, and a list of those in others, in each module",
        "ul_lock guards the list, atomic operations the two numbers; `last` is a thread's own, and each state is "
        "guarded by the GIL of its interpreter",
        Guard.ATOMIC,
    ),
    State(
        "transports/tls/openssl.h",
        ("loading", "result"),
        "whether OpenSSL's functions were found, once for all interpreters",
        "any interpreter that imports the engine; `loading` is the lock",
        Guard.ATOMIC,
    ),
    State(
        "transports/tls/openssl.h",
        ("ul_openssl", "ul_bio_method"),
        "OpenSSL's functions, and the methods of our BIO",
        "the thread that uses a session, also without the GIL",
        Guard.IMPORT,
    ),
    State(
        "transports/tls/protocol.pyx",
        ("_no_engine",),
        "the engine of connections whose session is gone: it has nothing, and reading from it fails",
        "the thread of any loop that has TLS",
        Guard.ITSELF,
    ),
    State(
        "glib/native.pyx",
        ("funcs",),
        "what GLib calls of a GSource; GLib keeps its address",
        "GLib, in the thread of any main loop",
        Guard.IMPORT,
    ),
    State(
        "requests/awaiting.pyx",
        ("ul_advance_wait", "ul_take_back_result"),
        "Cython's functions that `RequestWait.__next__`, which is C, calls",
        "the thread of any loop that awaits requests",
        Guard.IMPORT,
    ),
    State(
        "support/collect.h",
        ("ul_own_##NAME", "ul_generated_##NAME"),
        "how the garbage collector visits an object of class NAME: our function, and Cython's behind it",
        "the garbage collector, in any thread",
        Guard.IMPORT,
    ),
    State(
        "eventloop/base/loop_core.pyx",
        ("call_soon_definition", "call_later_definition", "create_task_definition"),
        "definitions of the methods that take their arguments as the interpreter has them; put into the class's dict",
        "any thread that calls them",
        Guard.IMPORT,
    ),
    State(
        "eventloop/raw.pyx",
        ("add_sqe_definition",),
        "the same for add_sqe()",
        "any thread that calls it",
        Guard.IMPORT,
    ),
)

_IGNORED = "it has no effect on us"
_NOTICED = "it is noticed, by comparing, and the program's is called"

COPIED_NAMES = (
    CopiedName(
        "aio/handles.pyx",
        ("_asyncio_handle", "_asyncio_timer_handle", "_asyncio_thread_safe_handle"),
        "asyncio.events: the classes of handles",
        _IGNORED + ": handles that exist keep naming the class that asyncio's own code knows",
    ),
    CopiedName("aio/context_core.pyx", ("is_finalizing",), "sys", _IGNORED),
    CopiedName(
        "aio/recorder.pyx",
        ("compiled_task", "python_task", "partial", "compiled_name", "compiled_coroutine"),
        "_asyncio, asyncio.tasks, functools",
        _IGNORED + ": steps of tasks of another class are counted as callbacks",
    ),
    CopiedName("aiocontext/context.pyx", ("is_finalizing",), "sys", _IGNORED),
    CopiedName("files/read_ahead.pyx", ("get_running_loop",), "asyncio.events", _IGNORED),
    CopiedName("requests/awaiting.pyx", ("is_finalizing",), "sys", _IGNORED),
    CopiedName(
        "requests/awaiting.pyx",
        ("CancelledError", "Future", "is_future_done", "resolve_future"),
        "asyncio.exceptions, asyncio.futures",
        _IGNORED,
    ),
    CopiedName(
        "requests/checks.pyx",
        ("BuiltinFunction", "PythonFunction"),
        "types",
        _IGNORED,
    ),
    CopiedName("eventloop/base/loop_core.pyx", ("Future",), "asyncio.futures", _IGNORED),
    CopiedName("eventloop/base/loop_core.pyx", ("base_class",), "asyncio.base_events", _IGNORED),
    CopiedName(
        "eventloop/base/loop_core.pyx",
        ("plain_create_task", "task_class"),
        "asyncio.base_events.BaseEventLoop.create_task, asyncio.tasks.Task",
        _NOTICED,
    ),
    CopiedName(
        "eventloop/base/loop_core.pyx",
        ("plain_base_time",),
        "asyncio.base_events.BaseEventLoop.time",
        _NOTICED,
    ),
    CopiedName(
        "eventloop/nested/levels.pyx",
        ("task_modules", "bound_enter"),
        "asyncio.tasks: functions that set the current task",
        _IGNORED,
    ),
    CopiedName(
        "eventloop/stdlib_hooks.py",
        ("_SELECTOR", "_UNIX"),
        "asyncio's selector and Unix loops, whose methods are put into `StdlibHooks`",
        "a method that is replaced there has no effect on us; one that is called by way of `_UNIX` is the program's",
    ),
    CopiedName(
        "eventloop/children.py",
        ("ThreadedWatcher",),
        "asyncio.unix_events: the child watcher that uses threads",
        _IGNORED,
    ),
    CopiedName(
        "transports/stock.py",
        ("Stream", "Datagram", "Tls"),
        "asyncio: the classes that our transports stand for",
        "what is replaced in these classes is noticed; a class in their place has no effect on us",
    ),
    CopiedName(
        "transports/plain.py",
        ("ORIGINAL", "_accept"),
        "socket.socket, and its accept()",
        "sockets of a class that gevent, PySocks or mocket has put there are served through their methods",
    ),
    CopiedName(
        "transports/trsock.py",
        ("_sock",),
        "asyncio.trsock.TransportSocket: the slot",
        _IGNORED,
    ),
    CopiedName("transports/base.pyx", ("warn",), "warnings", _IGNORED),
    CopiedName("transports/base.pyx", ("compiled_socket",), "_socket.socket", _IGNORED),
    CopiedName("transports/tls/transport.pyx", ("warn",), "warnings", _IGNORED),
    CopiedName(
        "transports/stream/endpoint.pyx",
        ("make_socket", "closed_socket"),
        "socket.socket: Python's own, also where another stands in its place",
        _IGNORED,
    ),
    CopiedName(
        "transports/stream/transport.pyx",
        ("_buffered_protocol", "_streams_protocol"),
        "asyncio: classes that decide how a protocol is called",
        _IGNORED,
    ),
    CopiedName(
        "transports/stream/transport.pyx",
        ("server_class", "server_methods"),
        "asyncio.Server, and its methods that count connections",
        _NOTICED,
    ),
    CopiedName(
        "transports/tls/protocol.pyx",
        ("_buffered_protocol", "_streams_protocol"),
        "the same, and exceptions of ssl",
        _IGNORED,
    ),
    CopiedName("transports/tls/engine.pyx", ("AGAIN",), "exceptions of ssl", _IGNORED),
)
