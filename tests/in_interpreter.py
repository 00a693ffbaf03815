"""Run pytest in a sub-interpreter with a GIL of its own: python tests/in_interpreter.py [pytest arguments]

From Python 3.13 on. The exit status is pytest's.
"""

import os
import sys

import _interpreters

CODE = """
import os, sys, types
sys.path[:] = {path!r}
# Python has none for other interpreters: a test that hangs is ended by a time limit for this program
sys.modules["faulthandler"] = stub = types.ModuleType("faulthandler")
stub.dump_traceback_later = stub.cancel_dump_traceback_later = lambda *arguments, **keywords: None
sys.argv[:] = {argv!r}
import pytest
status = int(pytest.main(["-p", "no:faulthandler", "-p", "no:hypothesispytest", *sys.argv[1:]]))
sys.stdout.flush()
os.write({fd}, bytes([status]))
"""


def main() -> int:
    reading, writing = os.pipe()
    interpreter = _interpreters.create("isolated")
    failure = _interpreters.exec(
        interpreter, CODE.format(path=[os.getcwd(), *sys.path[1:]], argv=sys.argv, fd=writing)
    )
    if failure is not None:
        print(failure.errdisplay, file=sys.stderr)
        return 1
    _interpreters.destroy(interpreter)
    return os.read(reading, 1)[0]


if __name__ == "__main__":
    sys.exit(main())
