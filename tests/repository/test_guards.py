"""In a Python without a GIL no method of what belongs to a context is forgotten: building/guards.py."""

import re

from building import guards

from .documents import ROOT

PACKAGE = ROOT / "uringloop"
CLASS = re.compile(r"^(?:cdef )?class (\w+)(?:\((\w+)[^)]*\))?:$", re.MULTILINE)
METHOD = re.compile(r"^    (?:async )?def (\w+)\(", re.MULTILINE)
HARMLESS = {"__cinit__", "__init__", "__dealloc__", "__repr__"}


def classes():
    """{name: (dotted name, base, methods)} of all compiled modules."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.pyx")):
        text = path.read_text()
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        starts = [*CLASS.finditer(text)]
        for one, after in zip(starts, [*starts[1:], None], strict=False):
            body = text[one.end() : after.start() if after else len(text)]
            body = re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0]
            found[one[1]] = (f"{module}.{one[1]}", one[2], set(METHOD.findall(body)))
    return found


def line_of(name, known):
    while name in known:
        yield known[name][0]
        name = known[name][1]


def test_every_class_with_methods_is_guarded_or_named():
    known = classes()
    exempt = guards.IMMUTABLE | guards.INTERNAL
    forgotten = [
        dotted
        for name, (dotted, _, methods) in known.items()
        if methods - HARMLESS
        and not set(line_of(name, known)) & guards.GUARDS.keys()
        and dotted not in exempt
    ]
    assert forgotten == []


def test_what_is_named_exists():
    known = classes()
    dotted = {one for one, _, _ in known.values()}
    named = guards.GUARDS.keys() | guards.IMMUTABLE | guards.INTERNAL
    assert sorted(named - dotted) == []
    text = {
        name: (PACKAGE / f"{module.replace('.', '/').rpartition('/')[0]}.pyx").read_text()
        for name, (module, _, _) in known.items()
    }
    for name, methods in guards.ANY_THREAD.items():
        for method in methods:
            plain = method.removesuffix(".get")
            assert re.search(rf"\b{plain}\b", text[name]) or plain in ("aio_context",), f"{name}.{method}"


# The name of the module, as Cython writes it, and the class.
M, C = "9uringloop_10aiocontext_7context", "struct __pyx_obj_9uringloop_10aiocontext_7context_AioContext"

SOURCE = f"""
struct __pyx_obj_9uringloop_3aio_12context_core_ContextCore {{
  PyObject_HEAD
  PyObject *guard;
}};
{C} {{
  struct __pyx_obj_9uringloop_3aio_12context_core_ContextCore __pyx_base;
}};
/* #### Code section: module_code ### */
static PyObject *__pyx_pf_{M}_10AioContext_8poll({C} *__pyx_v_self, int __pyx_v_blocking) {{
  body
}}
static PyObject *__pyx_pf_{M}_10AioContext_10notify({C} *__pyx_v_self) {{
  body
}}
static void __pyx_pf_{M}_10AioContext___del__({C} *__pyx_v_self) {{
  body
}}
static PyObject *__pyx_pf_{M}_function(CYTHON_UNUSED PyObject *__pyx_self) {{
  body
}}
"""


def test_methods_become_two_functions():
    made = guards.guarded(SOURCE, "aiocontext.context")
    assert made.count("ul_begin_visit(&visit") == 2  # poll and __del__
    assert "ul_in_9uringloop_10aiocontext_7context_10AioContext_8poll(__pyx_v_self, __pyx_v_blocking)" in made
    assert (
        "10notify(struct __pyx_obj_9uringloop_10aiocontext_7context_AioContext *__pyx_v_self) {\n  body"
        in made
    )
    assert "function(CYTHON_UNUSED PyObject *__pyx_self) {\n  body" in made


def test_with_a_gil_the_source_is_as_it_was():
    made = guards.guarded(SOURCE, "aiocontext.context")
    without = re.sub(r"#ifdef Py_GIL_DISABLED\n(?:.*\n)*?(?:#else\n((?:.*\n)*?))?#endif\n", r"\1", made)
    names = dict(re.findall(r"#define (ul_in_\w+) (\w+)\n", without))
    without = re.sub(r"#define .*\n|#include .*\n", "", without)
    for ours, theirs in names.items():
        without = without.replace(ours, theirs)
    assert without == SOURCE
