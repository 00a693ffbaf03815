"""CPython's test_asyncio: its test cases read a private attribute of the loop before they close it."""

from test.test_asyncio import utils

plain = utils.TestCase.close_loop


def close_loop(loop):
    if hasattr(loop, "_default_executor"):
        return plain(loop)
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def adapt(module):
    utils.TestCase.close_loop = staticmethod(close_loop)
    return lambda test: True
