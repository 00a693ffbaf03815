"""Loops in sub-interpreters with a GIL of their own, from Python 3.12 on; and the C sources made for them."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from building import interpreters

from .documents import ROOT

has_own_gil = pytest.mark.skipif(sys.version_info < (3, 12), reason="one GIL for all interpreters")
MONITORS = ["io_uring", "epoll", "poll"]

PRELUDE = """
import json, os, sys, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def create():
    return interpreters.create("isolated") if sys.version_info >= (3, 13) else interpreters.create(isolated=True)

def run_in(interpreter, code):
    code = f"import sys; sys.path[:] = {sys.path!r}\\n" + code
    failed = interpreters.run_string(interpreter, code)
    assert failed is None, failed

ECHO = '''
import asyncio, socket, uringloop

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for size in (1, 1000, 300_000):
        writer.write(bytes(size))
        assert await reader.readexactly(size) == bytes(size)
    writer.close()
    await writer.wait_closed()
    assert await asyncio.gather(*[asyncio.sleep(0, number) for number in range(50)]) == list(range(50))
    server.close()
    await server.wait_closed()
    return loop.fdmon

def check():
    wanted = MONITOR
    loop = uringloop.new_event_loop(fdmon=wanted)
    assert loop.run_until_complete(main()) == wanted
    loop.close()
check()
'''
"""


def script(source, timeout=120):
    """The JSON that a program prints."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@has_own_gil
@pytest.mark.parametrize("fdmon", MONITORS)
def test_a_loop_runs_in_a_sub_interpreter_beside_one_in_the_main_interpreter(fdmon):
    source = f"""
        echo = ECHO.replace("MONITOR", {repr(fdmon)!r})
        exec(echo, {{}})
        one = create()
        run_in(one, echo)
        exec(echo, {{}})
        run_in(one, "check()")
        interpreters.destroy(one)
        exec(echo, {{}})
        print(json.dumps("done"))
    """
    assert script(source) == "done"


@has_own_gil
def test_ten_interpreters_import_and_run_at_once():
    source = """
        failures = []

        def work(number):
            try:
                one = create()
                run_in(one, ECHO.replace("MONITOR", repr(("io_uring", "epoll", "poll")[number % 3])))
                interpreters.destroy(one)
            except BaseException as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps(failures))
    """
    assert script(source) == []


@has_own_gil
def test_interpreters_that_end_leave_no_descriptor_behind():
    source = """
        numbers = []
        for number in range(6):
            one = create()
            run_in(one, ECHO.replace("MONITOR", repr("io_uring")))
            interpreters.destroy(one)
            numbers.append(len(os.listdir("/proc/self/fd")))
        print(json.dumps(numbers))
    """
    numbers = script(source)
    assert numbers == [numbers[0]] * 6


FIFOS = """
import asyncio, os, threading, uringloop
from uringloop import files

def is_waiting(thread):
    if not thread.name.startswith("open ") or not thread.native_id:
        return False
    with open(f"/proc/self/task/{thread.native_id}/wchan") as file:
        return file.read() == "wait_for_partner"

async def main():
    os.chdir(os.path.dirname("LONELY"))
    for number in range(2):
        os.mkfifo(str(number))
        asyncio.ensure_future(files.open(str(number), "rb"))
    asyncio.ensure_future(files.open("LONELY", "rb"))
    while len([one for one in threading.enumerate() if is_waiting(one)]) < 3:
        await asyncio.sleep(0)
    os.chdir("/")  # 0 is another name now, and 1 is gone
    os.unlink(os.path.dirname("LONELY") + "/1")
    reader, writer = await asyncio.gather(files.open("FIFO", "rb"), files.open("FIFO", "wb"))
    async with reader, writer:
        await writer.write(b"through")
        await writer.flush()
        assert await reader.read(7) == b"through"

loop = uringloop.new_event_loop(MONITOR)
loop.run_until_complete(main())
loop.set_exception_handler(lambda loop, context: None)  # the task that waits
loop.close()
"""


@has_own_gil
@pytest.mark.parametrize("fdmon", MONITORS)
def test_fifos_are_opened_and_an_interpreter_ends_although_one_waits(tmp_path, fdmon):
    """There are no daemon threads."""
    code = FIFOS.replace("MONITOR", repr(fdmon))
    for name in ("lonely", "fifo"):
        os.mkfifo(tmp_path / name)
        code = code.replace(name.upper(), str(tmp_path / name))
    source = f"""
        one = create()
        run_in(one, {code!r})
        interpreters.destroy(one)
        print(json.dumps("ended"))
    """
    assert script(source, 30) == "ended"


@has_own_gil
def test_a_ring_of_another_interpreter_is_no_target_for_a_message():
    source = """
        from uringloop.liburing import lib
        import asyncio, uringloop
        reader, writer = os.pipe()
        done, wait = os.pipe()
        code = "; ".join([
            "import os, uringloop",
            "loop = uringloop.new_event_loop(fdmon='io_uring')",
            "loop.call_soon(loop.stop)",
            "loop.run_forever()",
            "fds = {int(fd): '/proc/self/fd/' + fd for fd in os.listdir('/proc/self/fd')}",
            "rings = [fd for fd, path in fds.items() if os.path.exists(path) and 'io_uring' in os.readlink(path)]",
            f"os.write({writer}, repr(rings).encode())",
            f"os.read({done}, 1)",
            "loop.close()",
        ])
        one = create()
        thread = threading.Thread(target=run_in, args=(one, code))
        thread.start()
        target = eval(os.read(reader, 1000))[0]
        loop = uringloop.new_event_loop(fdmon="io_uring")

        async def send():
            await loop.add_sqe(lambda sqe: lib.io_uring_prep_msg_ring(sqe, target, 1, 12345, 0))

        try:
            loop.run_until_complete(send())
            answer = "sent"
        except ValueError:
            answer = "refused"
        loop.close()
        os.write(wait, b"x")
        thread.join()
        interpreters.destroy(one)
        print(json.dumps(answer))
    """
    assert script(source) == "refused"


@has_own_gil
def test_raw_requests_say_why_not_and_files_use_threads(tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    code = f"""
import asyncio, os, uringloop

async def main():
    try:
        await asyncio.get_running_loop().add_sqe(lambda sqe: None)
    except ImportError as error:
        found = [str(error)]
    async with await uringloop.open({str(path)!r}) as file:
        found.append(await file.read())
    return found

os.write(WRITER, repr(uringloop.run(main())).encode())
"""
    source = f"""
        reader, writer = os.pipe()
        one = create()
        run_in(one, {code!r}.replace("WRITER", str(writer)))
        interpreters.destroy(one)
        print(json.dumps(eval(os.read(reader, 10_000))))
    """
    error, text = script(source)
    assert "interpreter" in error
    assert text == "text"


SOURCE = """
typedef struct {
  PyObject *__pyx_d;
struct __pyx_obj_A *__pyx_freelist_A[8];
int __pyx_freecount_A;
} __pyx_mstatetype;
#define __pyx_mstate_global (__Pyx_PyModule_GetState(__Pyx_State_FindModule(&__pyx_moduledef)))

#define __pyx_m (__Pyx_State_FindModule(&__pyx_moduledef))
static PyObject *__pyx_v_m_names = 0;
static int __pyx_v_m_n_seen;
static char *__pyx_v_m_staging;
static char const *__pyx_v_m_text;
static unsigned int __pyx_v_m_MOST;
static CYTHON_SMALL_CODE int __pyx_m_clear(PyObject *m) {
  __pyx_mstatetype *clear_module_state = __Pyx_PyModule_GetState(m);
  if (!clear_module_state) return 0;
  Py_CLEAR(clear_module_state->__pyx_d);
return 0;
}
  __Pyx_State_RemoveModule(NULL);
  __pyx_mstatetype *traverse_module_state = __Pyx_PyModule_GetState(m);
  if (!traverse_module_state) return 0;
    __pyx_mstate_global->__pyx_freelist_A[__pyx_mstate_global->__pyx_freecount_A++] = ((struct __pyx_obj_A *)o);
  int add_module_result = __Pyx_State_AddModule(__pyx_t_1, &__pyx_moduledef);
      __Pyx_State_RemoveModule(&__pyx_moduledef);
      sizeof(__pyx_mstatetype), /* m_size */
  {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
"""


def test_variables_move_into_the_state_of_an_interpreter_and_constants_stay():
    text = interpreters.rewritten(SOURCE)
    fields = text[text.index("  PyObject *ul_module;") : text.index("} __pyx_mstatetype;")]
    assert "  PyObject *ul_v_m_names;\n" in fields
    assert "  int ul_v_m_n_seen;\n" in fields
    assert "MOST" not in fields
    assert "#define __pyx_v_m_names (ul_state()->ul_v_m_names)\n" in text
    assert "\nstatic unsigned int __pyx_v_m_MOST;\n" in text


def test_arrays_of_any_dimension_are_state():
    number = "static int __pyx_v_m_n_seen;\n"
    source = SOURCE.replace(number, f"{number}static struct entry __pyx_v_m_known[8][16];\n")
    text = interpreters.rewritten(source)
    assert "  struct entry ul_v_m_known[8][16];\n" in text
    assert "#define __pyx_v_m_known (ul_state()->ul_v_m_known)\n" in text
    with pytest.raises(interpreters.UnknownSource, match="another kind"):
        interpreters.rewritten(source.replace("known[8][16];", "known[8][16] = {1};"))


@has_own_gil
def test_names_of_peers_are_each_interpreters_own():
    source = """
        import asyncio, socket, uringloop

        class Datagrams(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                seen.append(address)

        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
            peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for _ in range(3):
                peer.sendto(b"x", transport.get_extra_info("sockname"))
                while not seen:
                    await asyncio.sleep(0)
                good.append(seen.pop()[0] == "127.0.0.1")  # the table of names has the only reference
            transport.close()
            peer.close()

        seen, good = [], []
        for _ in range(3):
            uringloop.run(main())
            one = create()
            run_in(one, "import uringloop")
            interpreters.destroy(one)
        print(json.dumps(good))
    """
    assert script(source) == [True] * 9


def test_only_a_source_that_was_rewritten_allows_other_interpreters():
    assert "Py_MOD_PER_INTERPRETER_GIL_SUPPORTED" not in SOURCE
    assert "{Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}," in interpreters.rewritten(
        SOURCE
    )


def test_objects_are_released_and_memory_is_freed():
    text = interpreters.rewritten(SOURCE)
    assert "  Py_CLEAR(clear_module_state->ul_v_m_names);\n" in text
    assert "  Py_VISIT(traverse_module_state->ul_v_m_names);\n" in text
    assert text.count("free(state->") == 1
    assert "  free(state->ul_v_m_staging);\n" in text


def test_objects_that_are_kept_for_the_next_ones_are_freed_with_their_references_to_types():
    text = interpreters.rewritten(SOURCE)
    freed = text[text.index("  while (clear_module_state->__pyx_freecount_A > 0)") :]
    assert freed.index("tp_free(o)") < freed.index("Py_DECREF(type)") < freed.index("ul_v_m_names")


def test_an_unknown_source_is_compiled_as_it_is(tmp_path):
    path = tmp_path / "m.c"
    path.write_text(SOURCE.replace("#define __pyx_m ", "#define __pyx_module "))
    source, why_not = interpreters.rewrite(path, "m")
    assert source == path
    assert "__pyx_m" in why_not


def test_an_unchanged_source_is_not_written_again(tmp_path):
    path = tmp_path / "m.c"
    path.write_text(SOURCE)
    source, why_not = interpreters.rewrite(path, "m")
    assert (source.name, why_not) == ("m.interpreters.c", None)
    before = source.stat().st_mtime_ns
    interpreters.rewrite(path, "m")
    assert source.stat().st_mtime_ns == before


CLASSES = """
static struct __pyx_vtabstruct_m_A __pyx_vtable_m_A;
static PyObject *__pyx_builtin_min;
  __pyx_vtabptr_m_A = &__pyx_vtable_m_A;
  __pyx_vtable_m_A.__pyx_base = *__pyx_vtabptr_m_Base;
  __pyx_vtable_m_A.run = (int (*)(struct __pyx_obj_m_A *))__pyx_f_m_A_run;
static int __Pyx_GetVtable(PyTypeObject *type, void** table) {
    void* ptr;
    *table = NULL;
    *table = ptr;
    return 1;
no_attr:
"""


def test_methods_of_classes_are_filled_in_once_for_all_interpreters():
    """Others call through the table meanwhile, which has the methods of the base for a moment."""
    text = interpreters.rewritten(SOURCE + CLASSES)
    begin, end = (
        text.index("  if (ul_begin_filling((void **)&__pyx_vtabptr_m_A)) {\n"),
        text.index("ul_end_filling();"),
    )
    filled = text[begin:end]
    assert filled.index(".__pyx_base = ") < filled.index(".run = ") < filled.index("__pyx_vtabptr_m_A = &")
    assert text.count("__pyx_vtable_m_A.") == 2
    assert text.index("*table = ptr;") < text.index("*table = NULL;")


def test_a_table_of_methods_that_is_filled_in_another_way_is_not_known(tmp_path):
    path = tmp_path / "m.c"
    path.write_text(SOURCE + CLASSES.replace("  __pyx_vtabptr_m_A = &", "  other = &"))
    assert interpreters.rewrite(path, "m") == (path, "0 tables of methods are filled, others are not")


def test_each_interpreter_has_its_own_built_in_functions():
    text = interpreters.rewritten(SOURCE + CLASSES)
    assert "  PyObject *ul_builtin_min;\n" in text[: text.index("} __pyx_mstatetype;")]
    assert "#define __pyx_builtin_min (ul_state()->ul_builtin_min)\n" in text
    assert "#if !CYTHON_USE_MODULE_STATE\nstatic PyObject *__pyx_builtin_min;\n#endif" in text


def test_code_objects_of_tracebacks_are_released():
    declared = "PyObject *__pyx_d;\nstruct __Pyx_CodeObjectCache __pyx_code_cache;"
    text = interpreters.rewritten(SOURCE.replace("PyObject *__pyx_d;", declared))
    assert "Py_DECREF(clear_module_state->__pyx_code_cache.entries[--" in text
    assert "__pyx_code_cache" not in interpreters.rewritten(SOURCE)


def test_special_methods_have_no_docstrings(tmp_path):
    """Cython keeps a reference to the wrapper of one that has, and with it all memory of an interpreter."""
    path = tmp_path / "m.c"
    path.write_text(SOURCE + "struct wrapperbase __pyx_wrapperbase_m_1A_2__call__;\n")
    source, why_not = interpreters.rewrite(path, "m")
    assert source == path
    assert "special method" in why_not


def test_the_state_is_cleared_at_its_end_and_not_with_the_module():
    text = interpreters.rewritten(SOURCE)
    cleared = text[text.index("static void ul_clear_all(__pyx_mstatetype *clear_module_state)\n{") :]
    assert cleared.index("Py_CLEAR(clear_module_state->ul_v_m_names)") < cleared.index("__pyx_m_clear(")
    assert "  (void)m;\nreturn 0;\n}" in cleared[cleared.index("__pyx_m_clear(") :]
    assert "#define UL_KEEPS_NOTHING .__pyx_freecount_A = 8, .ul_module = NULL\n" in text


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python 3.13 itself leaves six MiB of each interpreter"
)
def test_interpreters_that_end_leave_no_memory_behind():
    source = """
        def pss():
            lines = open("/proc/self/smaps_rollup").read().splitlines()
            return int(next(line for line in lines if line.startswith("Pss:")).split()[1])

        def life(number):
            one = create()
            run_in(one, ECHO.replace("MONITOR", repr(("io_uring", "epoll", "poll")[number % 3])))
            interpreters.destroy(one)

        for number in range(6):
            life(number)
        before = pss()
        for number in range(24):
            life(number)
        print(json.dumps((pss() - before) / 24))
    """
    assert script(source) < 300  # KiB; one object that is left would keep 8,000
