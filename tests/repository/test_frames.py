"""The rule for frames that call user code, stated in fdmon/base.pxd: a frame owns the object that it calls.

A method that may run user code is called on an argument or a local variable, never on an attribute: a nested turn in
that code may set the attribute to another object, or to None, and `self` would be freed while its method runs.
"""

import pathlib
import re

import uringloop

PACKAGE = pathlib.Path(uringloop.__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.pyx"))

# cdef methods that may run user code
RUN_USER_CODE = re.compile(
    # transports
    "data_arrived|bytes_arrived|eof_arrived|read_failed|write_failed|wire_failed|sent|after_sent|fail|fail_reading|"
    "fail_writing|fatal_error|report_sent|stopped|deliver_held|received|deliver|read|read_bulk|send_completed|room_found|"
    "call_data_received|buffered_arrived|fill_buffer|accepted|report|report_errors|"
    # TLS
    "do_read|do_write|do_flush|do_shutdown|do_handshake|read_copied|read_buffered|read_into|write|"
    # contexts and loops
    "complete|complete_timed|on_ready|run|run_with_tuple|run_handle|run_found|run_ready|run_idle|run_due_timers|fire|"
    "turn|dispatch|dispatch_fds|deliver_last|check|ask|ask_bare|ask_all_of|ask_one|run_callback|arrive|finish|iterate"
)

# Attributes that are set only once, when the object is made: what they refer to lives as long as the object.
SET_ONCE = ("aio_context", "bottom_halves", "engine", "monitor", "pollers", "turns")

# Python objects: the bound method that is called keeps them alive.
OF_PYTHON = ("incoming", "loop", "outgoing", "sock", "sslobj", "transport")

A_CALL = re.compile(r"([\w.]*\w|\))\.(\w+)\.(\w+)\(|\(<\w+>\w+\.(\w+)\)\.(\w+)\(")


def code_of(path):
    """The lines of a file by number, without comments and docstrings."""
    text = re.sub(r'"""(?:.|\n)*?"""', lambda found: "\n" * found[0].count("\n"), path.read_text())
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.split("#")[0]


def calls_on_attributes(line):
    for found in A_CALL.finditer(line):
        attribute, method = found[2] or found[4], found[3] or found[5]
        if attribute not in SET_ONCE + OF_PYTHON and RUN_USER_CODE.fullmatch(method):
            yield method


def test_methods_that_may_run_user_code_are_called_on_variables():
    """Each of these calls needs a local variable, for the reason in fdmon/base.pxd."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in code_of(path)
        if any(calls_on_attributes(line))
    ]
    assert wrong == []


def test_what_visits_references_takes_none():
    """A Python with Py_DEBUG visits objects that are being freed: see support/collect.h."""
    visitors = 0
    for path in SOURCES:
        inside = False
        for _, line in code_of(path):
            if line.startswith("cdef int traverse_own("):
                inside, visitors = True, visitors + 1
            elif line and not line.startswith(" "):
                inside = False
            assert not (inside and re.search(r"= <\w+>self$", line.rstrip())), (
                f"{path.relative_to(PACKAGE)}: {line}"
            )
    assert visitors > 3
