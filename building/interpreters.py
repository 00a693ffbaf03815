"""Give each interpreter of the process its own state of our modules (PEP 684, Python 3.12 and newer).

Cython can keep constants and types in the state of a module object, but not the `cdef` variables of a module, and it
finds that state by two atomic operations on memory that all threads share, at each use.  So its C sources are rewritten
before they are compiled: variables move into the state, and `support/interpreters.h` finds it, which costs the main
interpreter one comparison as long as there is no other.

A source that does not look as expected, of a Cython that is not known here, is left alone: then the module can be
imported in the main interpreter only, as any module made by Cython.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import guards

# `cdef` variables, and built-in functions, of which each interpreter has its own.  Variables in capitals are constants:
# the same for all interpreters, also without the GIL.
VARIABLE = re.compile(
    r"^static (?P<type>[^=;(]*?[ *])(?P<name>__pyx_(?:v|builtin)_\w+?)(?P<array>(?:\[\w+\])+)?(?: = 0)?;$",
    re.MULTILINE,
)
ANY_VARIABLE = re.compile(r"^static [^(\n]*\b__pyx_v_[^(\n]*;$", re.MULTILINE)
# The methods of a class, which all interpreters share: code is at one address.  A second interpreter must not fill the
# table again, which has the methods of the base class for a moment; others call through it meanwhile.
METHODS = re.compile(
    r"^(?P<known>  __pyx_vtabptr_(?P<name>\w+) = &__pyx_vtable_(?P=name);\n)"
    r"(?P<filled>(?:  __pyx_vtable_(?P=name)\..*\n)+)",
    re.MULTILINE,
)
FREE_LIST = re.compile(r"^struct \w+ \*__pyx_freelist_(\w+)\[(\d+)\];$", re.MULTILINE)
CONSTANT = re.compile(r"_[A-Z][A-Z0-9_]*$")


class UnknownSource(Exception):
    """What Cython has written is not what this module knows."""


def _once(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise UnknownSource(f"{text.count(old)} times: {old.strip()[:70]!r}")
    return text.replace(old, new)


def _is_constant(one: re.Match[str]) -> bool:
    return bool(CONSTANT.search(one["name"])) and "PyObject" not in one["type"]


def rewritten(text: str) -> str:
    """The source with its state in each interpreter.  Raises UnknownSource."""
    for line in ANY_VARIABLE.findall(text):
        if not VARIABLE.fullmatch(line):
            raise UnknownSource(f"a variable of another kind: {line[:70]!r}")
    variables = [one for one in VARIABLE.finditer(text) if not _is_constant(one)]
    objects = [_field(one) for one in variables if _is_object(one)]
    memory = [_field(one) for one in variables if _is_memory(one)]
    free = "".join(f"  free(state->{field});\n" for field in memory)
    free = f"static void ul_free_memory(__pyx_mstatetype *state)\n{{\n  (void)state;\n{free}}}\n"
    fields = "".join(f"  {one['type']}{_field(one)}{one['array'] or ''};\n" for one in variables)
    names = "".join(f"#define {one['name']} (ul_state()->{_field(one)})\n" for one in variables)
    text = VARIABLE.sub(
        lambda one: one[0] if _is_constant(one) else f"#if !CYTHON_USE_MODULE_STATE\n{one[0]}\n#endif", text
    )
    text = _once(text, "} __pyx_mstatetype;\n", f"  PyObject *ul_module;\n{fields}}} __pyx_mstatetype;\n")
    text = _once(
        text,
        "#define __pyx_mstate_global (__Pyx_PyModule_GetState(__Pyx_State_FindModule(&__pyx_moduledef)))\n",
        f'{free}{_kept(text)}#include "interpreters.h"\n#define __pyx_mstate_global ul_state()\n{names}',
    )
    text = _once(
        text,
        "#define __pyx_m (__Pyx_State_FindModule(&__pyx_moduledef))\n",
        "#define __pyx_m (ul_own_module())\n",
    )
    if "struct wrapperbase __pyx_wrapperbase_" in text:
        raise UnknownSource(
            "the wrapper of a special method that has a docstring is never released: use a comment"
        )
    n_tables = len(METHODS.findall(text))
    if n_tables != len(re.findall(r"^static struct \w+ __pyx_vtable_\w+;$", text, re.MULTILINE)):
        raise UnknownSource(f"{n_tables} tables of methods are filled, others are not")
    text = METHODS.sub(
        "#if CYTHON_USE_MODULE_STATE\n"
        "  if (ul_begin_filling((void **)&__pyx_vtabptr_\\g<name>)) {\n"
        "#endif\n"
        "\\g<filled>\\g<known>"
        "#if CYTHON_USE_MODULE_STATE\n"
        "  }\n"
        "  ul_end_filling();\n"
        "#endif\n",
        text,
    )
    if "static int __Pyx_GetVtable(PyTypeObject *type, void** table) {" in text:
        # not NULL for a moment: others use it
        text = _once(text, "    void* ptr;\n    *table = NULL;\n", "    void* ptr;\n")
        found = "    *table = ptr;\n    return 1;\nno_attr:\n"
        text = _once(text, found, f"{found}    *table = NULL;\n")
    text = _once(text, "= __Pyx_State_AddModule(__pyx_t_1, &__pyx_moduledef);", "= ul_add_module(__pyx_t_1);")
    text = _once(text, "__Pyx_State_RemoveModule(&__pyx_moduledef);", "ul_remove_module();")
    text = _once(text, "  __Pyx_State_RemoveModule(NULL);\n", "  ul_remove_module();\n")
    text = _once(text, "      sizeof(__pyx_mstatetype), /* m_size */\n", "      0, /* m_size */\n")
    # Not by Cython's directive, which warns of each cdef variable.
    slot = "{Py_mod_multiple_interpreters, Py_MOD_%s},"
    text = _once(text, slot % "MULTIPLE_INTERPRETERS_NOT_SUPPORTED", slot % "PER_INTERPRETER_GIL_SUPPORTED")
    for verb, macro in (("clear", "Py_CLEAR"), ("traverse", "Py_VISIT")):
        state = f"{verb}_module_state"
        first = f"  __pyx_mstatetype *{state} = __Pyx_PyModule_GetState(m);\n  if (!{state}) return 0;\n"
        own = "".join(f"  {macro}({state}->{name});\n" for name in objects)
        if verb == "clear":
            own += _free_lists(text)
        text = _once(text, first, first.replace("__Pyx_PyModule_GetState(m)", "ul_state_of(m)") + own)
    text = _once(text, *_clearing(text))
    # Python does not release the metaclass of a type that C has made (3.14), and keeps all memory of an interpreter of
    # which one object is left.  That of Cython's own types only says where they are from.
    metaclass = "mstate->__pyx_CommonTypesMetaclassType, module, "
    text = text.replace(metaclass, f"CYTHON_USE_MODULE_STATE ? NULL : {metaclass}")
    switch = "".join(
        f"#define {name} (PY_VERSION_HEX >= 0x030C0000)\n"
        for name in ("CYTHON_USE_MODULE_STATE", "CYTHON_USE_TYPE_SPECS")
    )
    return f"#include <patchlevel.h>\n{switch}{text}"


def _clearing(text: str) -> tuple[str, str]:
    """What clears a module object, and what to do instead: nothing; all of it is cleared at the end of the state."""
    begin = "static CYTHON_SMALL_CODE int __pyx_m_clear(PyObject *m) {\n"
    end = "\nreturn 0;\n}\n"
    start = text.find(begin)
    stop = text.find(end, start)
    if start < 0 or stop < 0:
        raise UnknownSource("nothing clears the module")
    body = text[start + len(begin) : stop]
    first = "  __pyx_mstatetype *clear_module_state = ul_state_of(m);\n  if (!clear_module_state) return 0;\n"
    if not body.startswith(first):
        raise UnknownSource("the module is cleared in another way")
    cache = "clear_module_state->__pyx_code_cache"
    traced = (  # code objects for tracebacks, one for each line that an exception has passed
        f"  while ({cache}.count > 0)\n    Py_DECREF({cache}.entries[--{cache}.count].code_object);\n"
        f"  PyMem_Free({cache}.entries);\n  {cache}.entries = NULL;\n  {cache}.max_count = 0;\n"
    )
    if "struct __Pyx_CodeObjectCache __pyx_code_cache;" not in text:
        traced = ""
    all_of_it = (
        "static void ul_clear_all(__pyx_mstatetype *clear_module_state)\n"
        f"{{\n{body.removeprefix(first)}\n{traced}}}\n"
    )
    return text[start : stop + len(end)], f"{all_of_it}{begin}  (void)m;{end}"


def _field(one: re.Match[str]) -> str:
    return one["name"].replace("__pyx_", "ul_", 1)


def _kept(text: str) -> str:
    """How the state of an ended interpreter keeps no freed objects: as many as there may be are there already."""
    counts = "".join(f".__pyx_freecount_{name} = {size}, " for name, size in FREE_LIST.findall(text))
    declared = "static void ul_clear_all(__pyx_mstatetype *state);\n"
    return (
        f"{declared}#if CYTHON_USE_FREELISTS\n#define UL_KEEPS_NOTHING {counts}.ul_module = NULL\n"
        "#else\n#define UL_KEEPS_NOTHING .ul_module = NULL\n#endif\n"
    )


def _free_lists(text: str) -> str:
    """Freed objects that are kept for the next ones: memory, and a reference to their type."""
    loops = "".join(
        f"  while (clear_module_state->__pyx_freecount_{name} > 0) {{\n"
        f"    PyObject *o = (PyObject *)clear_module_state->__pyx_freelist_{name}"
        f"[--clear_module_state->__pyx_freecount_{name}];\n"
        "    PyTypeObject *type = Py_TYPE(o);\n"
        "    type->tp_free(o);\n"
        "    Py_DECREF(type);\n"
        "  }\n"
        for name, _ in FREE_LIST.findall(text)
    )
    return f"#if CYTHON_USE_FREELISTS\n{loops}#endif\n" if loops else ""


def _is_object(one: re.Match[str]) -> bool:
    return not one["array"] and (
        one["type"] in ("PyObject *", "PyTypeObject *") or one["type"].startswith("struct __pyx_obj_")
    )


def _is_memory(one: re.Match[str]) -> bool:
    """Allocated by the module, for as long as there is its state."""
    return not one["array"] and not _is_object(one) and "*" in one["type"] and "const" not in one["type"]


def rewrite(path: Path, module: str) -> tuple[Path, str | None]:
    """What to compile instead of a file that Cython has written, and why it is not for sub-interpreters, or None."""
    why_not = None
    source = path.read_text(encoding="utf-8")
    text = guards.guarded(source, module)
    try:
        text = rewritten(text)
    except UnknownSource as error:
        why_not = str(error)
    if text == source:
        return path, why_not
    ours = path.with_suffix(".interpreters.c")
    if not ours.exists() or ours.read_text(encoding="utf-8") != text:  # else it is compiled again
        ours.write_text(text, encoding="utf-8")
    return ours, why_not
