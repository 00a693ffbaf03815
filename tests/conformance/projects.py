"""The test suites of other projects, from their released source distributions.

Each suite has a row with what to install, what to run and how.  Settings for warnings, markers and fixtures from the
suite's own configuration are repeated in `ini`; its coverage, parallel runs and time limits are left out.  Versions are
fixed, so that a new failure is caused by uringloop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import environments
from .engine import Job
from .suite import Suite
from .targets import INJECT, Target, Unavailable

PYTEST = ("pytest==9.1.1",)
PYTEST_ASYNCIO = (*PYTEST, "pytest-asyncio==1.5.0")


@dataclass(frozen=True)
class Project:
    """The source of a project's tests, and their requirements."""

    name: str
    version: str
    requirements: tuple[str, ...]  # in addition to the project itself
    modules: Mapping[str, tuple[str, ...]]  # name -> arguments for pytest; unittest: the modules to import
    parts: tuple[str, ...] = ("tests",)  # the parts used of the source tree
    extras: str = ""
    ini: str = ""
    arguments: tuple[str, ...] = ()  # for pytest
    environment: Mapping[str, str] = field(default_factory=dict)
    adapter: str = ""  # unittest, with this module of inject/
    test_seconds: float = 60.0


class ProjectSuite(Suite):
    """One suite of the table below."""

    module_seconds = 1800.0

    def __init__(self, project: Project):
        self.project = project
        self.name = project.name
        self.test_seconds = project.test_seconds

    def modules(self, named: list[str] | None = None) -> list[str]:
        """Sources and environment are made now, not within the time of the first test."""
        there = self.project.modules
        if unknown := set(named or ()) - set(there):
            raise Unavailable(f"unknown modules: {', '.join(sorted(unknown))}; there are {', '.join(there)}")
        self.tests_folder()
        self.environment()
        return [name for name in there if name in (named or there)]

    def environment(self) -> environments.Environment:
        project = self.project
        itself = f"{project.name}{project.extras}=={project.version}"
        return environments.Environment.of(project.name, (itself, *project.requirements))

    def source(self) -> Path:
        return environments.source(self.project.name, self.project.version)

    def tests_folder(self) -> Path:
        return environments.copy_of_tests(self.name, self.source(), self.project.parts, self.project.ini)

    def job(self, module: str, target: Target) -> Job:
        folder, python = self.tests_folder(), str(self.environment().python)
        pytest = (python, "-m", "pytest", "-c", str(folder / "pytest.ini"), "--rootdir", str(folder))
        plugins = ("-p", "conformance_pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors")
        output = ("-q", "--tb=short", "-rN")
        what = (*self.project.arguments, *self.project.modules[module])
        environment = {"NO_COLOR": "1", "COLUMNS": "120", "CI": "1", **self.project.environment}
        return Job(
            f"{self.name}/{module}", (*pytest, *plugins, *output, *what), folder, environment=environment
        )

    def fingerprint(self, module: str) -> bytes:
        return repr((self.project, self.environment().frozen)).encode()

    def owns(self, module: str, test_id: str) -> bool:
        return any(test_id.startswith(what) for what in self.project.modules[module])


class UnittestSuite(ProjectSuite):
    """A suite of unittest modules; the table names them without their package, and each one runs by itself."""

    def job(self, module: str, target: Target) -> Job:
        folder, python = self.tests_folder(), str(self.environment().python)
        (dotted,) = self.project.modules[module]
        environment = {"CONFORMANCE_ADAPTER": self.project.adapter, **self.project.environment}
        command = (python, "-m", "conformance_worker", dotted)
        return Job(f"{self.name}/{module}", command, folder, (str(folder),), environment)

    def owns(self, module: str, test_id: str) -> bool:
        (dotted,) = self.project.modules[module]
        return test_id.startswith(dotted + ".")


class InstalledUnittests(UnittestSuite):
    """The tests are installed with the package: its source distribution is not needed."""

    def tests_folder(self) -> Path:
        return self.environment().folder


class UvloopSuite(UnittestSuite):
    """uvloop's tests need its test utilities, and uvloop or its stand-in; uvloop itself is not installed."""

    def environment(self) -> environments.Environment:
        return environments.Environment.of(self.name, self.project.requirements)

    def job(self, module: str, target: Target) -> Job:
        job = super().job(module, target)
        front = () if target.loop == "uvloop" else (str(INJECT / "stand_in_for_uvloop"),)
        environment = {**job.environment, "CONFORMANCE_UVLOOP": str(self.source())}
        return Job(job.name, job.command, job.folder, (*front, *job.path), environment)


class SmokeSuite(ProjectSuite):
    """Our own suite: servers and clients of several projects together."""

    def environment(self) -> environments.Environment:
        return environments.Environment.of(self.name, self.project.requirements)

    def tests_folder(self) -> Path:
        return Path(__file__).with_name("smoke")

    def fingerprint(self, module: str) -> bytes:
        return super().fingerprint(module) + b"".join(
            p.read_bytes() for p in sorted(self.tests_folder().iterdir())
        )


def _modules(package: str, names: str) -> dict[str, tuple[str, ...]]:
    return {name: (f"{package}.{name}",) for name in names.split()}


def _files(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names.split())


UVLOOP = Project(
    "uvloop",
    "0.23.0",
    ("aiohttp==3.14.5", "psutil", "pyOpenSSL", "setuptools"),
    # Tests of uvloop's build and of its libuv are left out.
    _modules(
        "tests",
        "test_base test_tcp test_unix test_udp test_sockets test_pipes test_process test_process_spawning "
        "test_signals test_context test_dns test_executors test_regr1 test_runner test_aiohttp",
    ),
    adapter="adapt_uvloop",
    test_seconds=25.0,
)

TORNADO = Project(
    "tornado",
    "6.6.1",
    (),
    _modules(
        "tornado.test",
        "asyncio_test ioloop_test iostream_test netutil_test tcpserver_test tcpclient_test httpserver_test "
        "simple_httpclient_test httpclient_test websocket_test process_test web_test gen_test locks_test "
        "queues_test concurrent_test testing_test",
    ),
    environment={"ASYNC_TEST_TIMEOUT": "25"},
    adapter="adapt_tornado",
)

AIOHTTP = Project(
    "aiohttp",
    "3.14.5",
    (
        *(
            *PYTEST,
            "pytest-mock",
            "trustme",
            "re-assert",
            "freezegun",
            "proxy.py",
            "blockbuster",
            "pytest-codspeed",
        ),
        *("isal", "zlib-ng", "Brotli", "backports.zstd; python_version<'3.14'", "gunicorn", "aiodns"),
    ),
    {
        "client": _files(
            "tests",
            "test_client_functional test_client_ws_functional test_connector test_client_session "
            "test_proxy_functional test_resolver",
        ),
        "web": _files(
            "tests",
            "test_web_functional test_web_websocket_functional test_web_sendfile_functional test_web_server "
            "test_web_protocol test_web_runner test_run_app test_test_utils test_web_urldispatcher test_loop "
            "test_streams test_base_protocol test_worker test_flowcontrol_streams",
        ),
    },
    ini="""\
filterwarnings =
    error
    ignore:unclosed:ResourceWarning
    ignore::pytest.PytestUnraisableExceptionWarning
    ignore::DeprecationWarning
markers =
    dev_mode: mark test to run in dev mode.
    internal: tests which may cause issues for packagers
    autobahn: Autobahn test suite
    skip_blockbuster: mark test to skip the blockbuster fixture
xfail_strict = true
""",
    arguments=(
        "-p",
        "no:asyncio",
        "-p",
        "no:aiohttp",
        "-p",
        "no:codspeed",
        "-m",
        "not dev_mode and not internal",
    ),
)

ANYIO = Project(
    "anyio",
    "4.16.0",
    (
        *PYTEST,
        "blockbuster",
        "hypothesis",
        "psutil",
        "pytest-mock",
        "pytest-timeout",
        "trustme",
        "truststore",
    ),
    {
        "sockets": ("tests/test_sockets.py", "tests/streams/test_tls.py"),
        "tasks": _files(
            "tests", "test_taskgroups test_eventloop test_lowlevel test_synchronization test_debugging"
        ),
        "threads": (
            *_files(
                "tests", "test_from_thread test_to_thread test_to_process test_subprocesses test_signals"
            ),
            *_files("tests", "test_fileio streams/test_file"),
        ),
    },
    extras="[trio]",  # its tests import it
    ini="""\
anyio_mode = auto
xfail_strict = true
filterwarnings =
    error
    ignore:Module globals; __loader__ != __spec__.loader:DeprecationWarning:
markers =
    network: marks tests as requiring Internet access
""",
    # TestUDPSocketBackpressure tests how much the kernel's loopback takes.  The variants with eager tasks repeat
    # every test; CPython's suite tests such tasks.
    arguments=(
        *("-p", "anyio", "-p", "no:asyncio", "-p", "no:trio", "-m", "not network"),
        *("-k", "not trio and not uvloop and not eager and not TestUDPSocketBackpressure"),
    ),
)

UVICORN = Project(
    "uvicorn",
    "0.54.0",
    (
        *PYTEST,
        "pytest-mock",
        "trustme",
        "cryptography",
        "httpx2",
        "a2wsgi",
        "wsproto",
        "zttp",
        "trio",
        "httpx",
    ),
    {"all": ("tests",)},
    extras="[standard]",
    ini="""\
xfail_strict = true
filterwarnings =
    error
    ignore::DeprecationWarning
    ignore: The global interpreter lock:RuntimeWarning
""",
    arguments=(
        *("-k", "not uvloop and not trio", "-p", "no:asyncio"),
        *("--ignore=tests/benchmarks", "--ignore=tests/supervisors"),
    ),
)

HTTPX = Project(
    "httpx",
    "0.28.1",
    (*PYTEST, "trio", "uvicorn", "trustme", "chardet", "cryptography"),
    {"all": ("tests/client", "tests/test_timeouts.py")},
    extras="[http2,socks,brotli,zstd,cli]",
    ini="""\
markers =
    copied_from(source, changes=None)
    network
""",
    arguments=("-k", "not trio", "-m", "not network"),
)

AIOSMTPD = Project(
    "aiosmtpd",
    "1.4.6",
    (*PYTEST_ASYNCIO, "pytest-mock", "setuptools<81"),  # the tests use pkg_resources
    {"all": ("aiosmtpd/tests",)},
    parts=("aiosmtpd/tests",),
    ini="""\
asyncio_mode = auto
markers =
    client_data
    controller_data
    handler_data
""",
    arguments=("--import-mode=importlib",),
)

HYPERCORN = Project(
    "hypercorn",
    "0.18.0",
    (*PYTEST_ASYNCIO, "httpx", "hypothesis", "mock", "h2", "trio", "pytest-trio"),
    {"all": ("tests/asyncio", "tests/e2e")},
    ini="asyncio_mode = strict\n",
    arguments=("-k", "not trio"),
)

AIOCONSOLE = Project(
    "aioconsole",
    "0.8.2",
    PYTEST_ASYNCIO,
    {"all": ("tests",)},
    ini="asyncio_mode = strict\n",
    test_seconds=40.0,
)

PYTEST_ASYNCIO_ITSELF = Project(
    "pytest-asyncio",
    "1.5.0",
    (*PYTEST, "hypothesis"),
    {"all": ("tests",)},
    ini="asyncio_default_fixture_loop_scope = function\npytester_example_dir = docs\n",
)

AIOQUIC = Project(
    "aioquic",
    "1.7.2",
    PYTEST,
    {"asyncio": ("tests/test_asyncio.py",)},
)

# On a loop of uringloop both only enable its nested mode.
NEST_ASYNCIO = Project("nest-asyncio", "1.6.0", PYTEST, {"all": ("tests/nest_test.py",)})
NEST_ASYNCIO2 = Project("nest-asyncio2", "1.7.4", PYTEST, {"all": ("tests/nest_test.py",)})

SMOKE = Project(
    "smoke",
    "",
    (
        *(
            *PYTEST,
            "uvicorn[standard]==0.54.0",
            "uvicorn-worker",
            "gunicorn",
            "hypercorn==0.18.0",
            "aiohttp==3.14.5",
        ),
        *(
            "trustme",
            "ipykernel",
            "jupyter_client",
            "redis",
            "asyncpg",
            "pyzmq",
            "distributed",
            "nest-asyncio2",
        ),
    ),
    {name: (f"smoke_{name}.py",) for name in ("asgi", "aiohttp", "clients", "programs")},
    test_seconds=90.0,
)

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        UvloopSuite(UVLOOP),
        *(ProjectSuite(project) for project in (AIOHTTP, ANYIO, UVICORN, HTTPX)),
        InstalledUnittests(TORNADO),
        *(
            ProjectSuite(project)
            for project in (
                *(AIOSMTPD, HYPERCORN, AIOCONSOLE, PYTEST_ASYNCIO_ITSELF, AIOQUIC),
                *(NEST_ASYNCIO, NEST_ASYNCIO2),
            )
        ),
        SmokeSuite(SMOKE),
    )
}
