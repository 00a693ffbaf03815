"""The suite `cpython`: the interpreter's own test_asyncio."""

import importlib.util
import sys
from pathlib import Path

from .engine import Job
from .suite import PYTHON, Suite
from .targets import Target, Unavailable

PACKAGE = "test.test_asyncio"
#: The modules with tests that count.  Not here: modules that only use mocks, or loops that they define themselves.
MODULES = (
    *("test_events", "test_sock_lowlevel", "test_streams", "test_server", "test_buffered_proto"),
    *("test_sendfile", "test_subprocess", "test_unix_events", "test_ssl", "test_sslproto", "test_runners"),
    *("test_base_events", "test_tasks", "test_futures2", "test_locks", "test_queues", "test_taskgroups"),
    *(
        "test_timeouts",
        "test_waitfor",
        "test_staggered",
        "test_eager_task_factory",
        "test_context",
        "test_server_context",
    ),
    "test_threads",
)


def sources() -> Path:
    """The folder of the installed tests.  Raises Unavailable."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            f"{sys.executable} was installed without its tests (Debian, Ubuntu: libpython{PYTHON}-testsuite)"
        )
    return Path(spec.submodule_search_locations[0])


class CPython(Suite):
    """The suite runs with this interpreter, without a virtual environment."""

    name = "cpython"
    each_makes_a_loop = True

    def modules(self, named: list[str] | None = None) -> list[str]:
        """Modules that this Python does not have are left out."""
        folder = sources()
        if unknown := set(named or ()) - set(MODULES):
            raise Unavailable(
                f"unknown modules: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}"
            )
        return [name for name in MODULES if name in (named or MODULES) and (folder / f"{name}.py").exists()]

    def job(self, module: str, target: Target) -> Job:
        command = (sys.executable, "-m", "conformance_worker", f"{PACKAGE}.{module}")
        environment = {"CONFORMANCE_ADAPTER": "adapt_cpython", "CONFORMANCE_INTERNALS": "leave out"}
        return Job(module, command, environment=environment)

    def fingerprint(self, module: str) -> bytes:
        return (sources() / "utils.py").read_bytes() + (sources() / f"{module}.py").read_bytes()

    def owns(self, module: str, test_id: str) -> bool:
        return test_id.startswith(f"{PACKAGE}.{module}.")


suite = CPython()
