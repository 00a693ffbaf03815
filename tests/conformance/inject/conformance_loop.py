"""Makes asyncio's factories create another loop.

CONFORMANCE_LOOP names it: `asyncio`, or a module with `new_event_loop()` and the class `Loop`.  apply() is
called once, by sitecustomize, right after the import of asyncio.  The suites are not patched.
"""

import asyncio
import asyncio.unix_events
import functools
import importlib
import os

NAME = os.environ.get("CONFORMANCE_LOOP", "asyncio")

ASYNCIO_LOOP = asyncio.unix_events._UnixSelectorEventLoop
ASYNCIO_POLICY = asyncio.unix_events._UnixDefaultEventLoopPolicy

#: Loops made through the redirection so far: the proof that a test used the loop under test.
made = 0


@functools.cache
def target():
    """(factory, class) of the loop under test; imported late, since its module imports asyncio."""
    if NAME == "asyncio":
        return ASYNCIO_LOOP, ASYNCIO_LOOP
    module = importlib.import_module(NAME)
    return module.new_event_loop, module.Loop


def make_loop(*args, **kwargs):
    """A loop under test.  Only asyncio uses a selector argument; for other loops it is closed."""
    global made
    factory, loop_class = target()
    if NAME == "asyncio":
        loop = factory(*args, **kwargs)
    else:
        for arg in (*args, *kwargs.values()):
            if hasattr(arg, "close"):
                arg.close()
        loop = factory()
    if not isinstance(loop, loop_class):
        raise RuntimeError(f"{NAME} made a {type(loop)!r}, not the loop under test")
    made += 1
    return loop


@functools.cache
def subclassable():
    """The class of the loop under test, for subclasses of SelectorEventLoop that pass a selector on."""
    loop_class = target()[1]
    if NAME == "asyncio":
        return loop_class

    class TakesSelector(loop_class):
        def __init__(self, selector=None):
            global made
            if selector is not None:
                selector.close()
            super().__init__()
            made += 1

    return TakesSelector


class LoopClassProxy:
    """Replaces asyncio.SelectorEventLoop and asyncio.EventLoop.

    Tests call these, use them with isinstance(), patch their attributes and derive from them.
    """

    def __call__(self, *args, **kwargs):
        return make_loop(*args, **kwargs)

    def __instancecheck__(self, obj):
        return isinstance(obj, target()[1])

    def __subclasscheck__(self, cls):
        return issubclass(cls, target()[1])

    def __mro_entries__(self, bases):
        return (subclassable(),)

    def __getattr__(self, name):
        return getattr(target()[1], name)

    def __setattr__(self, name, value):
        setattr(target()[1], name, value)

    def __delattr__(self, name):
        delattr(target()[1], name)

    def __repr__(self):
        return f"<stand-in for {target()[1]!r}>"


def apply():
    """Redirect asyncio's loop classes and its default policy, and thereby new_event_loop(), run() and Runner."""
    ASYNCIO_POLICY._loop_factory = staticmethod(make_loop)
    proxy = LoopClassProxy()
    for module in (asyncio, asyncio.unix_events):
        module.SelectorEventLoop = proxy
        if hasattr(module, "EventLoop"):  # since Python 3.13
            module.EventLoop = proxy
