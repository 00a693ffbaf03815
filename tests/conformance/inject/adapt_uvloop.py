"""uvloop's own tests: their loops are made by the loop under test.

Most come twice: in a class for uvloop, which gets the package `stand_in_for_uvloop/uvloop` (but for uvloop itself),
and in its twin for asyncio, whose expectations are asyncio's own, and whose new_loop() is redirected here.  Tests that
ask which loop they have get "asyncio": that is the behaviour which other loops are compared with.
"""

import conformance_loop
from uvloop import _testbase


def adapt(module):
    class Policy(conformance_loop.ASYNCIO_POLICY):
        _loop_factory = staticmethod(conformance_loop.make_loop)

    case, base = _testbase.AIOTestCase, _testbase.BaseTestCase
    case.new_loop = lambda self: conformance_loop.make_loop()
    case.new_policy = lambda self: Policy()
    if conformance_loop.NAME != "uvloop":
        base.is_asyncio_loop = lambda self: True
    if conformance_loop.NAME != "asyncio":
        # They set asyncio's child watcher up and down, which a loop need not consult.
        case.setUp, case.tearDown = base.setUp, base.tearDown
    return lambda test: True
