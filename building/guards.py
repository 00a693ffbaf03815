"""Guard what belongs to one context, in a free-threaded Python: support/guard.h says what a guard is.

Every method, property and special method of the classes below is compiled as two functions: one takes the guard of the
object's context, and calls the other.  It is written here, and not at the top of some 300 methods, so that none is
forgotten: a new method of such a class is guarded unless ANY_THREAD names it.  With a GIL the C code is as Cython has
written it.

Not guarded: `__cinit__`, since nobody else knows the object yet; `__dealloc__`, since nobody does any more: what it
does must not need a guard; functions that have no object, whose callers are methods; and slots that we fill in C.
"""

from __future__ import annotations

import re

PACKAGE = "uringloop"

# Where an object of the class, or of one derived from it, has the guard: a field, or the field of one that it has.
GUARDS = {
    "aio.context_core.ContextCore": "guard",
    "aio.foreign_turns.ForeignTurns": "aio_context.guard",
    "aio.bottom_halves.BottomHalf": "owner.guard",
    "aio.handles.Handle": "loop?",  # the loop's, if that has one; else that of the timers it is on
    "aio.poll_handlers.PollHandler": "owner.guard",
    "files.page_cache.CachedReads": "aio_context.guard",
    "files.read_ahead.ReadAhead": "_cached.aio_context.guard",
    "files.ring_requests.RingFiles": "loop.guard",
    "glib.native.Source": "turns.aio_context.guard",
    "requests.awaiting.RequestWait": "request.guard",
    "requests.request.SqeRequest": "guard",
    "aio.handles.Guarded": "guard",
    "transports.base.Transport": "aio_context.guard",
    "transports.base.TransportTable": "guard",
    "transports.stream.accept.Acceptor": "guard",
    "transports.tls.protocol.TlsProtocol": "guard",
    "transports.tls.transport.TlsTransport": "tls.guard",
}

# Fields whose class has the guard in a base.
FIELDS = {"loop": "aio.handles.Guarded", "request": "requests.request.SqeRequest"}

# Classes with methods that Python can call, and no guard, because of what each name says.
IMMUTABLE = {"aio.context_core.Resumable", "requests.request.Cqe", "transports.stream.endpoint.Kind"}
INTERNAL = {  # an object that no program has, or that only its own thread uses
    "aio.collector.Collector",  # not without a GIL
    "aio.poll_handlers.PollHandlers",
    "aio.ready.ReadyQueue",
    "aio.recorder.Recorder",  # only reads what others may ask for
    "aio.timers.Timers",
    "eventloop.base.incoming.Accepted",
    "eventloop.base.incoming.Listening",
    "eventloop.lost_tasks._Recorder",
    "eventloop.nested.levels.Level",
    "eventloop.nested.levels._TaskMaker",
    "fdmon.adaptive_polling.PollList",
    "files.page_cache.Block",
    "group.balancer.Balancer",  # its own mutex
    "group.balancer.Seat",
    "observing.watchdog.Watchdog",  # its fields are the watching thread's
    "requests.awaiting.RequestProxy",
    "requests.submit.Scratch",
    "transports.stream.endpoint.Connection",
    "transports.tls.protocol._NoSession",
}

# Functions of modules that are guarded, too, with the argument that has the guard.
FUNCTIONS = {"eventloop.nested.levels.run_level": "loop"}

# Not guarded: any thread may call them at any time, and waits for nothing.  They read numbers and what never changes.
# By the class that defines the method: one that overrides it is guarded.
ANY_THREAD = {
    "LoopCore": {
        "call_soon_threadsafe",
        "_write_to_self",
        "is_running",
        "is_closed",
        "get_debug",
        "_debug.get",
        "_closed.get",
        "_check_closed",
        "supports_sqe.get",
        "create_future",
        "stop",
    },
    "ContextOwner": {"aio_context.get"},
    "AioContext": {"new_bottom_half", "schedule_one_shot", "notify", "time_ns", "fdmon.get"},
    "ContextCore": {"_caller_id"},
    "BottomHalf": {"schedule", "schedule_idle", "cancel", "delete", "scheduled.get", "deleted.get"},
    "Handle": {"__class__.get", "_loop.get"},
    "TimerHandle": {"__class__.get", "when", "_when.get", "__hash__", "__lt__", "__gt__"},
    "ThreadSafeHandle": {"__class__.get", "cancelled"},
}
NEVER = {"__cinit__", "__dealloc__", "__reduce_cython__", "__setstate_cython__"}

SECTION = "/* #### Code section: module_code ### */\n"
DEFINITION = re.compile(
    r"^static (?P<type>PyObject \*|\w+ )(?P<name>__pyx_pf_\w+)\((?P<arguments>[^{;]*)\) \{$", re.MULTILINE
)
# Between the lines of a debug build stand others, which name the line of the .pyx.
DERIVED = re.compile(
    r"^struct (__pyx_obj_\w+) \{\n(?:#line .*\n|\n)*  struct (__pyx_obj_\w+) __pyx_base;$", re.MULTILINE
)
STRUCT = re.compile(r"^struct (__pyx_obj_\w+) \{$", re.MULTILINE)
ARGUMENT = re.compile(r"(?:CYTHON_UNUSED )?(?P<type>.*?[ *])(?P<name>\w+)$")


def _mangled(dotted: str) -> str:
    return (
        "".join(f"{len(part)}{part}_" for part in (PACKAGE, *dotted.split(".")[:-1])) + dotted.split(".")[-1]
    )


def _struct(dotted: str) -> str:
    return "__pyx_obj_" + _mangled(dotted)


def _finder(dotted: str, path: str) -> str:
    """A function that finds the guard of such an object; it may return NULL or None."""
    name = dotted.split(".")[-1]
    body = []
    if path.endswith("?"):
        field = path.removesuffix("?")
        guarded = _struct("aio.handles.Guarded")
        kind = f"__pyx_mstate_global->__pyx_ptype_{_mangled('aio.handles.Guarded')}"
        body += [
            f"  PyObject *of = self->{field};",
            f"  if (of != NULL && PyObject_TypeCheck(of, {kind})) return ((struct {guarded} *)of)->guard;",
            "  if (self->timers == NULL || (PyObject *)self->timers == Py_None) return NULL;",
            "  return self->timers->guard;",
        ]
    else:
        at = "self"
        for field in path.split(".")[:-1]:
            at = f"{at}->{field}"
            body.append(f"  if ((PyObject *){at} == NULL || (PyObject *){at} == Py_None) return NULL;")
        last = path.split(".")[-1]
        kind = FIELDS.get(path.rpartition(".")[0])
        if kind is not None:
            at = f"((struct {_struct(kind)} *){at})"
        body.append(f"  return {at}->{last};")
    lines = "\n".join(body)
    return f"static inline PyObject *ul_guard_of_{name}(struct {_struct(dotted)} *self)\n{{\n{lines}\n}}\n"


def _method(rest: str) -> str:
    """`write` of "22write", `_eof.get` of "4_eof___get__"; Cython numbers all but the first."""
    one = re.fullmatch(r"\d+(.+)___(get|set|del)__", rest)
    return f"{one[1]}.{one[2]}" if one else rest.lstrip("0123456789")


def _split(arguments: str) -> list[tuple[str, str]]:
    """Types and names."""
    found = [ARGUMENT.match(one.strip()) for one in arguments.split(",")]
    return [(one["type"], one["name"]) for one in found if one]


class _Classes:
    """The classes that a source knows, and which of them have guards."""

    def __init__(self, text: str) -> None:
        self.base = dict(DERIVED.findall(text))
        known = set(STRUCT.findall(text))
        self.roots = {_struct(dotted): dotted for dotted in GUARDS if _struct(dotted) in known}

    def line(self, struct: str) -> list[str]:
        """The class and its bases."""
        found = [struct]
        while found[-1] in self.base:
            found.append(self.base[found[-1]])
        return found

    def root(self, struct: str) -> str | None:
        return next((self.roots[one] for one in self.line(struct) if one in self.roots), None)


def guarded(text: str, module: str) -> str:
    """The source of a module, whose name is without the package's, with guards."""
    classes = _Classes(text)
    used = set()

    def two_functions(one: re.Match[str]) -> str:
        arguments = _split(one["arguments"])
        prefix = f"__pyx_pf_{_mangled(module + '.')}"
        dotted = None
        if not one["name"].startswith(prefix) or not arguments:
            return one[0]
        rest = one["name"].removeprefix(prefix)
        if arguments[0][1] == "__pyx_v_self" and "__pyx_obj_" in arguments[0][0]:
            struct = arguments[0][0].removeprefix("struct ").rstrip(" *")
            dotted, found = classes.root(struct), "__pyx_v_self"
            length = re.match(r"\d+", rest)
            if length is None:
                return one[0]
            end = length.end() + int(length[0])
            name = _method(rest[end + 1 :])
            if name in NEVER or name in ANY_THREAD.get(rest[length.end() : end], ()):
                return one[0]
        else:
            name = rest.lstrip("0123456789")
            wanted = FUNCTIONS.get(f"{module}.{name}")
            found = f"__pyx_v_{wanted}"
            of = next((kind for kind, argument in arguments if argument == found), None)
            dotted = classes.root(of.removeprefix("struct ").rstrip(" *")) if of else None
        if dotted is None:
            return one[0]
        used.add(dotted)
        return _wrapped(one, dotted, found, arguments)

    text = DEFINITION.sub(two_functions, text)
    if not used:
        return text
    finders = "".join(_finder(dotted, GUARDS[dotted]) for dotted in sorted(used))
    block = f'#include "guard.h"\n#ifdef Py_GIL_DISABLED\n{finders}#endif\n'
    if text.count(SECTION) != 1:
        raise ValueError("no place for the guards")
    return text.replace(SECTION, block + SECTION)


def _wrapped(one: re.Match[str], dotted: str, found: str, arguments: list[tuple[str, str]]) -> str:
    inner = one["name"].replace("__pyx_pf_", "ul_in_", 1)
    passed = ", ".join(name for _, name in arguments)
    declared = ", ".join(f"{kind}{name}" for kind, name in arguments)
    has_result = one["type"].strip() != "void"
    call = f"{inner}({passed});"
    root = f"(struct {_struct(dotted)} *){found}"
    return (
        "#ifdef Py_GIL_DISABLED\n"
        f"static {one['type']}{inner}({declared});\n"
        f"static {one['type']}{one['name']}({declared}) {{\n"
        + (f"  {one['type']}result;\n" if has_result else "")
        + "  ul_visit visit;\n"
        f"  ul_begin_visit(&visit, ul_guard_of_{dotted.split('.')[-1]}({root}));\n"
        f"  {'result = ' if has_result else ''}{call}\n"
        "  ul_end_visit(&visit);\n" + ("  return result;\n" if has_result else "") + "}\n#else\n"
        f"#define {inner} {one['name']}\n"
        "#endif\n"
        f"static {one['type']}{inner}({one['arguments']}) {{"
    )
