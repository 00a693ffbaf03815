"""Finds the state that modules keep between calls: variables of modules, classes and C that may change.

A name that is bound at import, to something that never changes, is a constant and is not reported:

* numbers, texts, tuples and expressions of them;
* names of this package: a class, a function, another constant;
* calls of IMMUTABLE, which make something that never changes.

Everything else is reported: variables that a function assigns (`global`), containers, C arrays, structs and pointers,
results of calls, caches, free lists, `static` variables; and objects of other packages that are bound to one of our
names, since a program may replace them in their package.  An `import` at the head of a module is not reported.

This module handles Python and C; `cython_state` handles Cython.
"""

import ast
import re

# Calls whose result never changes.
IMMUTABLE = {
    "bool", "bytes", "float", "frozenset", "hasattr", "int", "len", "object", "range", "str", "tuple",
    "MappingProxyType", "NewType", "TypeVar", "dirname", "getLogger", "intern", "makedev", "sysconf",
}  # fmt: skip
CONTAINERS = {
    "Counter", "OrderedDict", "SimpleNamespace", "WeakKeyDictionary", "WeakSet", "WeakValueDictionary", "array",
    "bytearray", "defaultdict", "deque", "dict", "list", "local", "set",
}  # fmt: skip
CACHES = {"cache", "lru_cache"}

# Methods of a container that do not change it.
READING = {"get", "items", "keys", "values", "copy", "index", "count", "isdisjoint", "issubset", "issuperset"}
DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


# Expressions that module-level names are bound to


def called(node):
    """The last part of the name that a call or a decorator calls; "" for other expressions."""
    function = node.func if isinstance(node, ast.Call) else node
    return getattr(function, "attr", None) or getattr(function, "id", "")


def root_of(node):
    """`a` of a.b["c"].d(); None for other expressions."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def is_constant(value, foreign):
    """Whether the value of this expression never changes.

    Parameters:
        foreign: names of the module that refer to objects of other packages.
    """
    if isinstance(value, (ast.BinOp, ast.Compare, ast.UnaryOp, ast.Constant, ast.JoinedStr, ast.Lambda)):
        return True
    if isinstance(value, ast.BoolOp):
        return all(is_constant(item, foreign) for item in value.values)
    if isinstance(value, ast.IfExp):
        return is_constant(value.body, foreign) and is_constant(value.orelse, foreign)
    if isinstance(value, ast.Tuple):
        return all(is_constant(item, foreign) for item in value.elts)
    if isinstance(value, ast.Starred):
        return is_constant(value.value, foreign)
    if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name):
        return True  # list[int], (1, 2)[0]
    if isinstance(value, ast.Attribute) and value.attr.isupper():
        return True  # a constant by its name: os.O_CLOEXEC
    if isinstance(value, ast.Call):
        return called(value) in IMMUTABLE
    root = root_of(value)
    return root is not None and root not in foreign


def is_container(value):
    return isinstance(value, DISPLAYS) or (isinstance(value, ast.Call) and called(value) in CONTAINERS)


# Python


def is_ours(node):
    return isinstance(node, ast.ImportFrom) and (
        node.level > 0 or (node.module or "").startswith("uringloop")
    )


def at_import(body):
    """All statements that run when the module is imported, except those in class bodies."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for name in ("body", "orelse", "finalbody"):
                yield from at_import(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from at_import(handler.body)


def bindings(statement):
    """[(name, value)] of an assignment."""
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return []
    return [(target.id, value) for target in targets if isinstance(target, ast.Name)]


def locals_of(function):
    """The local names of a function."""
    own = {arg.arg for arg in ast.walk(function.args) if isinstance(arg, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node is not function:
            own.add(node.name)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            own.add(node.name)
    return own - {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}


def is_class_of(node):
    """`cls`, `type(self)`, `self.__class__`: their attributes are shared by all objects."""
    return (
        (isinstance(node, ast.Name) and node.id == "cls")
        or (isinstance(node, ast.Call) and called(node) == "type")
        or (isinstance(node, ast.Attribute) and node.attr == "__class__")
    )


def written_by(function, module_names):
    """The non-local state that a function changes: globals, attributes of modules, functions and classes."""
    own = locals_of(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Call) and called(node) in ("setattr", "delattr") and node.args:
            if getattr(node.args[0], "id", "") != "self":
                yield f"{function.name}: {called(node)}()"
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            if isinstance(node.value, ast.Call) and called(node.value) in ("globals", "vars"):
                yield f"{called(node.value)}()"
            elif is_class_of(node.value):
                yield f"{function.name}: {ast.unparse(node)}"
            else:
                root = root_of(node)
                if root in module_names and root not in own:
                    yield root if isinstance(node, ast.Subscript) else f"{root}.{node.attr}"


def is_only_read(tree, name):
    """Whether a container is only read, never passed on or changed."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or node.id != name or isinstance(node.ctx, ast.Store):
            continue
        above = parents[node]
        if not (
            (isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Load))
            or (isinstance(above, ast.Attribute) and above.attr in READING)
            or isinstance(above, (ast.Compare, ast.For, ast.comprehension, ast.Starred))
            or (isinstance(above, ast.Call) and called(above) in {*IMMUTABLE, "sorted"})
        ):
            return False
    return True


def defaults_of(function):
    """Parameters whose default is a container, shared by all calls."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(reversed(positional), reversed(arguments.defaults), strict=False)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [
        f"{function.name}({arg.arg})" for arg, value in pairs if value is not None and is_container(value)
    ]


def python_state(text):
    """The names of the state of a Python module."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    statements = list(at_import(tree.body))
    foreign, module_names, found = set(), set(), set()
    for node in statements:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            module_names |= names
            foreign |= set() if is_ours(node) else names
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            module_names.add(node.name)
        for name, value in bindings(node):
            module_names.add(name)
            if is_container(value):
                if name != "__all__" and not is_only_read(tree, name):
                    found.add(name)
            elif not is_constant(value, foreign) and not is_stateless(value, classes):
                found.add(name)
                foreign.add(name)
            elif isinstance(value, ast.Constant) and "#include" in str(value.value):
                found |= c_state(value.value)
    for function in functions:
        found.update(written_by(function, module_names), defaults_of(function))
        if any(called(decorator) in CACHES for decorator in function.decorator_list):
            found.add(function.name)
    for kind in classes:
        for node in kind.body:
            found |= {f"{kind.name}.{name}" for name, value in bindings(node) if is_container(value)} - {
                f"{kind.name}.__slots__"
            }
    return found


def is_stateless(value, classes):
    """Whether it is an object of a class of this module that is frozen, a tuple, or without any fields."""
    kind = next(
        (kind for kind in classes if isinstance(value, ast.Call) and kind.name == called(value)), None
    )
    if kind is None:
        return isinstance(value, ast.Tuple) and all(is_stateless(item, classes) for item in value.elts)
    return (
        any("frozen=True" in ast.unparse(decorator) for decorator in kind.decorator_list)
        or any(called(base) in ("NamedTuple", "Enum", "IntEnum") for base in kind.bases)
        or any(
            name == "__slots__" and ast.unparse(slots) == "()"
            for node in kind.body
            for name, slots in bindings(node)
        )
    )


# C

COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
DIRECTIVES = re.compile(r"^[ \t]*#[^\n]*$", re.MULTILINE)
MACRO_CALLS = re.compile(r"^[ \t]*[A-Z_0-9]+\([^;{}\n]*\)[ \t]*;?[ \t]*$", re.MULTILINE)
MACROS = re.compile(r"^[ \t]*#[ \t]*define[ \t]+\w+(?:\([^)]*\))?([^\n]*\bstatic\b[^\n]*)$", re.MULTILINE)
BEGIN_OF_TYPE = re.compile(r"(?:\b(?:struct|union|enum)\b(?:\s+\w+)?|=)\s*$")


def c_state(text):
    """Variables of C source that are not const: `static` ones, and those outside of functions."""
    text = LITERALS.sub('""', COMMENTS.sub(" ", text)).replace("\\\n", " ")
    found = set()
    for body in MACROS.findall(text):
        found |= variables_in(body)
    return found | variables_in(MACRO_CALLS.sub("", DIRECTIVES.sub("", text)))


def variables_in(text):
    found, statement, depth, in_type = set(), "", 0, 0
    for character in text:
        if in_type:  # members of a struct, or an initializer
            in_type += {"{": 1, "}": -1}.get(character, 0)
            statement += "" if in_type else " "
        elif character == "{" and BEGIN_OF_TYPE.search(statement):
            in_type = 1
        elif character in "{}":
            depth += 1 if character == "{" else -1
            statement = ""
        elif character == ";":
            found |= variables_of(statement.strip(), depth)
            statement = ""
        else:
            statement += character
    return found


def variables_of(statement, depth):
    words = re.findall(r"\w+", statement)
    if not words or {"typedef", "extern"} & set(words[:1]):
        return set()
    if depth and not {"static", "__thread", "_Thread_local"} & set(words):
        return set()
    if not depth and words[0] in ("struct", "union", "enum") and len(words) <= 2:
        return set()  # a type
    found, first = set(), True
    for declarator in split_at_commas(statement):
        declarator = declarator.split("=", 1)[0].strip()
        pointer = re.search(r"\(\s*\*\s*(const\s+)?(\w+)\s*(?:\[[^]]*\]\s*)?\)\s*\(", declarator)
        plain = re.search(r"(\*\s*const\s+|\*\s*)?((?:\w|##)+)\s*(?:\[[^]]*\]\s*)*$", declarator)
        if first:
            is_const_type, first = bool(re.match(r"[^*(]*\bconst\b", declarator)), False
        if pointer:
            found |= set() if pointer[1] else {pointer[2]}
        elif plain and ")" not in declarator:
            is_const = "const" in plain[1] if plain[1] else is_const_type
            found |= set() if is_const else {plain[2]}
    return found


def split_at_commas(text):
    depth, begin = 0, 0
    for at, character in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]


# Headers of Cython


def verbatim_c(text):
    """The C code in a .pxd."""
    return "\n".join(re.findall(r'^cdef extern from [^\n]*:\n\s+"""(.*?)"""', text, re.DOTALL | re.MULTILINE))
