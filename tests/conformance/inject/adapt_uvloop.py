"""uvloop's own tests: their loops are made by the loop under test.

Most exist twice: in a class for uvloop, which gets the package `stand_in_for_uvloop/uvloop` (except when uvloop itself
is tested), and in a class for asyncio, which expects asyncio's behaviour, and whose new_loop() is redirected here.
Tests that check which loop they have get "asyncio", since other loops are compared with its behaviour.
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
        # They set up and tear down asyncio's child watcher, which a loop need not use.
        case.setUp, case.tearDown = base.setUp, base.tearDown
    return lambda test: True
