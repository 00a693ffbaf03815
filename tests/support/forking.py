"""Scripts that fork."""

import textwrap

from support.helpers import run_script

FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads

def fork(child):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        child()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)

def ended(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with {status}"
            return
        time.sleep(0.001)
    os.kill(pid, 9)
    raise AssertionError("the child hangs")
"""


def run_forking(body, monitor):
    run_script(FORK + textwrap.dedent(body), monitor)
