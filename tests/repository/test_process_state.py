"""All state that modules keep between calls is listed in uringloop/support/process_state.py, and nothing else."""

import json
import re
import subprocess
import sys

import pytest

from uringloop.support.process_state import COPIED_NAMES, STATE, Guard

from . import module_state
from .documents import ROOT

pytest.importorskip("Cython")

PACKAGE = ROOT / "uringloop"
LISTED = {f"{entry.where}: {name}" for entry in (*STATE, *COPIED_NAMES) for name in entry.names}


def state_of_cython(folder):
    """{file: {"kept": names, "in_c": names in C, "n_warnings": number}} of a package's Cython modules."""
    command = [sys.executable, "-m", "repository.cython_state", str(folder)]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def named(path, names):
    return {f"{path.relative_to(PACKAGE)}: {name}" for name in names}


@pytest.fixture(scope="module")
def of_cython():
    """Cython parses all modules, which takes about five seconds: the tests that need it are slow."""
    return state_of_cython(PACKAGE)


@pytest.fixture(scope="module")
def kept_by_cython(of_cython):
    return {f"{path}: {name}" for path, found in of_cython.items() for name in found["kept"]}


@pytest.fixture(scope="module")
def kept_by_python():
    return set().union(
        *(named(path, module_state.python_state(path.read_text())) for path in PACKAGE.rglob("*.py"))
    )


@pytest.fixture(scope="module")
def kept_by_c(of_cython):
    kept = {f"{path}: {name}" for path, found in of_cython.items() for name in found["in_c"]}
    for path in PACKAGE.rglob("*.h"):
        kept |= named(path, module_state.c_state(path.read_text()))
    for path in PACKAGE.rglob("*.pxd"):
        kept |= named(path, module_state.c_state(module_state.verbatim_c(path.read_text())))
    return kept


@pytest.mark.slow
def test_the_state_of_cython_modules_is_listed(kept_by_cython):
    assert sorted(kept_by_cython - LISTED) == []


def test_the_state_of_python_modules_is_listed(kept_by_python):
    assert sorted(kept_by_python - LISTED) == []


@pytest.mark.slow
def test_the_state_in_c_is_listed(kept_by_c):
    assert sorted(kept_by_c - LISTED) == []


@pytest.mark.slow
def test_listed_state_exists(kept_by_cython, kept_by_python, kept_by_c):
    assert sorted(LISTED - kept_by_cython - kept_by_python - kept_by_c) == []


@pytest.mark.slow
def test_cython_warns_of_all_variables_of_c(of_cython):
    """Constants, too; if a newer Cython stopped warning, no state would be found."""
    for path, found in of_cython.items():
        assigned = re.findall(r"^cdef [^(\n]*\b\w+ = ", (PACKAGE / path).read_text(), re.MULTILINE)
        assert found["n_warnings"] >= len(assigned), path


def test_nothing_is_listed_twice():
    names = [f"{entry.where}: {name}" for entry in (*STATE, *COPIED_NAMES) for name in entry.names]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_state_set_at_import_is_assigned_by_no_function():
    wrong = []
    for entry in (*COPIED_NAMES, *(entry for entry in STATE if entry.guard is Guard.IMPORT)):
        assigned = re.findall(r"^\s+global (.*)$", (PACKAGE / entry.where).read_text(), re.MULTILINE)
        wrong += [
            f"{entry.where}: {name}" for name in entry.names if name in re.split(r"\W+", " ".join(assigned))
        ]
    assert wrong == []


def test_a_running_program_does_not_load_the_list():
    code = "import sys, uringloop; assert 'uringloop.support.process_state' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


# The finder finds each kind


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("n = 0\ndef f():\n    global n\n    n += 1", {"n"}),
        ("seen = {}\ndef f(x):\n    seen[x] = 1", {"seen"}),
        ("seen = []\ndef f(x):\n    seen.append(x)", {"seen"}),
        ("seen: set[int] = set()\ndef f(x):\n    g(seen)", {"seen"}),
        (
            "try:\n    import a\n    made = weakref.WeakSet()\nexcept ImportError:\n    pass\nmade.add(1)",
            {"made"},
        ),
        ("import functools\n@functools.lru_cache(maxsize=None)\ndef f(x): ...", {"f"}),
        ("import functools\nclass A:\n    @functools.cache\n    def f(self): ...", {"f"}),
        ("def f(x, seen=[]): ...", {"f(seen)"}),
        ("def f(*, seen={}): ...", {"f(seen)"}),
        ("class A:\n    seen = []", {"A.seen"}),
        ("class A:\n    n = 0\n    def f(self):\n        type(self).n += 1", {"f: type(self).n"}),
        ("class A:\n    @classmethod\n    def f(cls):\n        cls.n = 1", {"f: cls.n"}),
        ("class A: ...\ndef f():\n    A.n = 1", {"A.n"}),
        ("import asyncio\ndef f():\n    asyncio.run = g", {"asyncio.run"}),
        ("import asyncio\ndef f():\n    setattr(asyncio, 'run', g)", {"f: setattr()"}),
        ("def f():\n    f.n = 1", {"f.n"}),
        ("def f(name):\n    globals()[name] = 1", {"globals()"}),
        ("lock = threading.Lock()", {"lock"}),
        ("from .a import B\nthe_only = B()", {"the_only"}),
        ("import time\nmonotonic = time.monotonic", {"monotonic"}),
        ("import time\nmonotonic = getattr(time, 'monotonic', None) or time.time", {"monotonic"}),
        ("from asyncio import tasks\nTask = tasks.Task\ndone = Task.done", {"Task", "done"}),
        ('SOURCE = """\n#include <a.h>\nstatic int n;\n"""', {"n"}),
    ],
)
def test_state_of_a_python_module_is_found(source, names):
    assert module_state.python_state(source) == names


@pytest.mark.parametrize(
    "source",
    [
        "N = 1\nNAMES = ('a', 'b')\nTEXT = f'{N}'\nPAUSES = (1,) + (2,) * 3",
        "KINDS = {'a': 1}\ndef f(x):\n    return KINDS[x] if x in KINDS else KINDS.get(None)",
        "import os\nFLAGS = os.O_RDWR | os.O_EXCL\nNONBLOCK = os.O_NONBLOCK\nHAS = hasattr(os, 'a')",
        "import os\nlistdir = 1\ndef f():\n    os = g()\n    os.n = 1\n    listdir = 2",
        "from .a import b\nc = b\nd = b.e\n__all__ = ['c']\n__all__ += ['d']",
        "import logging\nlogger = logging.getLogger('a')",
        "class A:\n    __slots__ = ['a']\n    def f(self):\n        self.n = 1\n        setattr(self, 'n', 2)",
        "class A:\n    __slots__ = ()\nthe_only = A()",
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A: ...\nTABLE = (A(), A())",
        "import time\ndef f():\n    monotonic = time.monotonic",
    ],
)
def test_constants_of_a_python_module_are_not_found(source):
    assert module_state.python_state(source) == set()


KEPT_BY_CYTHON = [
    ("cdef int n = 0\ndef f():\n    global n\n    n += 1", {"n"}),
    ("n = 0\ndef f():\n    global n\n    n += 1", {"n"}),
    ("cdef list seen = []", {"seen"}),
    ("cdef object seen = {}", {"seen"}),
    ("import weakref\ncdef object seen = weakref.WeakSet()", {"seen"}),
    ("seen = {}", {"seen"}),
    ("cdef object later", {"later"}),
    ("cdef char *memory = NULL", {"memory"}),
    ("cdef int numbers[8]", {"numbers"}),
    ("cdef struct s:\n    int n\ncdef s one", {"one"}),
    ("cdef class A:\n    pass\ncdef A the_only = A()", {"the_only"}),
    ("cimport cython\n@cython.freelist(8)\ncdef class A:\n    pass", {"freelist(A)"}),
    ("class A:\n    seen = []", {"A.seen"}),
    ("import functools\n@functools.cache\ndef f(x):\n    pass", {"f"}),
    ("def f(x, seen=[]):\n    pass", {"f(seen)"}),
    ("import time\ncdef object monotonic = time.monotonic", {"monotonic"}),
    ("from asyncio import tasks\nTask = tasks.Task", {"Task"}),
    ("import asyncio\ncdef int f() except -1:\n    asyncio.run = None\n    return 0", {"asyncio.run"}),
    ("class A:\n    pass\ndef f():\n    A.n = 1", {"A.n"}),
    ('cdef extern from *:\n    """\n    static int n;\n    """\n', {"n"}),
    ('cdef extern from "<a.h>":\n    """\n    int f(void) { static int n; return n++; }\n    """\n', {"n"}),
]

NOT_KEPT_BY_CYTHON = [
    "cdef int N = 8\ncdef double S = 0.5\ncdef str NAME = 'a'\ncdef object TEXT = 'b'\ncdef object OWN = object()",
    "cdef class A:\n    def f(self):\n        pass\ncdef object plain_f = A.__dict__['f']\ncdef object kind = A",
    "import sys\ncdef bint is_new = sys.version_info >= (3, 13)\nNAMES = ('a', 'b')\n__all__ = ['NAMES']",
    "from .other import Name\ncdef object name = Name",
    "cdef object maker = None\ntry:\n    from .other import maker\nexcept ImportError:\n    pass",
    "cdef class A:\n    cdef int n\n    cdef int f(self) except -1:\n        self.n = 1\n        return 0",
    "cdef extern from '<poll.h>':\n    int POLLIN\ncdef enum:\n    M = 1",
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """{source: the state of a Cython module with this source}."""
    folder = tmp_path_factory.mktemp("planted")
    sources = [*(source for source, _ in KEPT_BY_CYTHON), *NOT_KEPT_BY_CYTHON]
    for number, source in enumerate(sources):
        (folder / f"planted{number}.pyx").write_text(source + "\n")
    found = state_of_cython(folder)
    of_source = {source: found[f"planted{number}.pyx"] for number, source in enumerate(sources)}
    return {source: {*kept["kept"], *kept["in_c"]} for source, kept in of_source.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "names"), KEPT_BY_CYTHON)
def test_state_of_a_cython_module_is_found(planted, source, names):
    assert planted[source] == names


@pytest.mark.slow
@pytest.mark.parametrize("source", NOT_KEPT_BY_CYTHON)
def test_constants_of_a_cython_module_are_not_found(planted, source):
    assert planted[source] == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("static int n;", {"n"}),
        ("static int n = 1, m[2] = {1, 2}, *p;", {"n", "m", "p"}),
        ("int n;", {"n"}),
        ("static const char *name = 0;", {"name"}),
        ("static struct { int (*f)(void); int n; } table;", {"table"}),
        ("static struct item *items[2];", {"items"}),
        ("static void (*before)(void);", {"before"}),
        ("static __thread uint64_t mine;", {"mine"}),
        ("static inline int f(void)\n{\n    static int n = -1;\n    int m = 2;\n    return n + m;\n}", {"n"}),
        ("int f(int m) { if (m) { static long n; n++; } return m; }", {"n"}),
        (
            "#define KEPT(NAME) \\\n    static int ul_##NAME; \\\n    static int f_##NAME(void) { return 1; }",
            {"ul_##NAME"},
        ),
        ("/* static int m; */ // static int k;\nstatic int n;", {"n"}),
    ],
)
def test_state_in_c_is_found(source, names):
    assert module_state.c_state(source) == names


@pytest.mark.parametrize(
    "source",
    [
        "static const int n = 1;\nstatic const char name[] = {'a', 0};",
        'static const char *const text = "static int n;";',
        'static const struct { const char *name; } wanted[] = { {"a"} };',
        "static int f(void);\nstatic int *g(int n, char *m)\n{\n    int k = 1;\n    return 0;\n}",
        "struct item { int n; };\nenum { A = 1 };\ntypedef int (*function)(void);\nextern int n;\nstruct item;",
        "#include <a.h>\n#define N 1\n#define ADD(n) ((n) + 1)\n#if N\n#endif\nKEPT(Name)",
    ],
)
def test_constants_in_c_are_not_found(source):
    assert module_state.c_state(source) == set()


def test_c_code_in_cython_headers_is_found():
    text = 'cdef extern from *:\n    """\n    static int n;\n    """\n    int f()\ncdef class A:\n    """It; they."""\n'
    assert module_state.c_state(module_state.verbatim_c(text)) == {"n"}
