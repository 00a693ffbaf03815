"""Replaces uvloop for its own tests, which thereby use the loop under test.

Their base classes, `uvloop._testbase`, are taken from the source tree that CONFORMANCE_UVLOOP names.
"""

import asyncio
import os

import conformance_loop

__version__ = "0"
__path__.append(os.path.join(os.environ["CONFORMANCE_UVLOOP"], "uvloop"))

Loop = conformance_loop.target()[1]
new_event_loop = conformance_loop.make_loop


class EventLoopPolicy(conformance_loop.ASYNCIO_POLICY):
    """asyncio's policy, which makes the loop under test."""

    def new_event_loop(self):
        return new_event_loop()


def install():
    asyncio.set_event_loop_policy(EventLoopPolicy())


def run(main, *, loop_factory=new_event_loop, debug=None, **kwargs):
    """Like uvloop.run(): asyncio.run() with the loop under test, and a check of the loop."""

    async def checked():
        if not isinstance(asyncio.get_running_loop(), Loop):
            raise TypeError("uvloop.run() uses a non-uvloop event loop")
        return await main

    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        return runner.run(checked())
