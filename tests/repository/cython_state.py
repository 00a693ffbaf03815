"""Finds the state that Cython modules keep between calls: see `module_state`.

python -m repository.cython_state FOLDER prints it for all modules of a package.  It runs in a process of its own,
because Cython leaves a large heap, which the garbage collector would traverse after each of the following tests.
"""

import ast
import io
import json
import pathlib
import re
import sys

from Cython.CodeWriter import ExpressionWriter
from Cython.Compiler import Errors, ExprNodes, Main, Options, Pipeline
from Cython.Compiler.ParseTreeTransforms import AnalyseDeclarationsTransform
from Cython.Compiler.Scanning import FileSourceDescriptor
from Cython.Compiler.Visitor import TreeVisitor

from .module_state import CACHES, c_state, called, is_class_of, is_constant, is_container, root_of


class Reader(TreeVisitor):
    """The names in the parse tree of a module, before Cython transforms it."""

    def __init__(self):
        super().__init__()
        self.values = {}  # of module-level names: [ast or None where it is no expression of Python's]
        self.foreign = set()
        self.own = set()  # other names that the module imports or defines
        self.found = set()
        self.found_in_c = set()
        self.is_inside = False  # of a function
        self.classes = []
        self.changed = []  # attributes and items that functions assign

    def visit_Node(self, node):
        self.visitchildren(node)

    def visit_CImportStatNode(self, node):
        pass

    visit_FromCImportStatNode = visit_CImportStatNode

    def visit_FromImportStatNode(self, node):
        level, name = node.module.level, str(node.module.module_name.value)
        if not self.is_inside:
            is_foreign = not level and not name.startswith("uringloop")
            (self.foreign if is_foreign else self.own).update(str(target.name) for _, target in node.items)

    def visit_FuncDefNode(self, node):
        outer, self.is_inside = self.is_inside, True
        name = getattr(node, "name", None) or name_of(node.declarator)
        for arg in getattr(node, "args", ()):
            if getattr(arg, "default", None) is not None and is_container(
                expression(arg.default) or ast.Pass()
            ):
                self.found.add(f"{name}({name_of(arg.declarator) or arg.base_type.name})")
        for decorator in getattr(node, "decorators", None) or ():
            if called(expression(decorator.decorator) or ast.Pass()) in CACHES:
                self.found.add(str(name))
        self.visitchildren(node)
        self.is_inside = outer

    def visit_GlobalNode(self, node):
        self.found |= set(map(str, node.names))

    def in_class(self, node, name):
        for decorator in getattr(node, "decorators", None) or ():
            if called(expression(decorator.decorator) or ast.Pass()) == "freelist":
                self.found.add(f"freelist({name})")
        self.own.add(str(name))
        self.classes.append(name)
        self.visitchildren(node)
        self.classes.pop()

    def visit_CClassDefNode(self, node):
        self.in_class(node, node.class_name)

    def visit_PyClassDefNode(self, node):
        self.in_class(node, node.name)

    def visit_CDefExternNode(self, node):
        self.found_in_c |= c_state(node.verbatim_include or "")

    def visit_CVarDefNode(self, node):
        for declarator in node.declarators:
            if getattr(declarator, "default", None) is not None:
                self.bind(name_of(declarator), declarator.default)
        self.visitchildren(node)

    def visit_SingleAssignmentNode(self, node):
        self.assign(node.lhs, node.rhs)
        self.visitchildren(node)

    def visit_InPlaceAssignmentNode(self, node):
        if self.is_inside and not isinstance(node.lhs, ExprNodes.NameNode):
            self.changed.append(node.lhs)
        self.visitchildren(node)

    def visit_CascadedAssignmentNode(self, node):
        for target in node.lhs_list:
            self.assign(target, node.rhs)
        self.visitchildren(node)

    def assign(self, target, value):
        if isinstance(target, ExprNodes.NameNode):
            if not isinstance(value, ExprNodes.ImportNode):
                self.bind(str(target.name), value)
            elif not self.is_inside:
                is_foreign = not value.level and not str(value.module_name.value).startswith("uringloop")
                (self.foreign if is_foreign else self.own).add(str(target.name))
        elif self.is_inside:
            self.changed.append(target)

    def bind(self, name, value):
        if self.is_inside:
            return
        value = expression(value)
        if not self.classes:
            self.values.setdefault(name, []).append(value)
        elif value is not None and is_container(value) and name != "__slots__":
            self.found.add(f"{self.classes[-1]}.{name}")


def name_of(declarator):
    while not hasattr(declarator, "name"):
        declarator = declarator.base
    return str(declarator.name)


def expression(node):
    """The Python ast of a node of Cython's tree; None if Python has no such node: casts, addresses."""
    try:
        return ast.parse(ExpressionWriter().write(node).strip(), mode="eval").body
    except Exception:
        return None


def changed_at(reader):
    """Attributes and items of modules, classes and other named objects that functions change."""
    for node in reader.changed:
        target = expression(node)
        if is_class_of(getattr(target, "value", None)) or root_of(target) in reader.own | reader.foreign:
            yield ast.unparse(target)


class Analysis:
    """Cython's analysis of declarations, for modules that cimport each other."""

    def __init__(self, root):
        self.root = root
        directives = Options.get_directive_defaults()
        directives.update(language_level=3, subinterpreters_compatible="own_gil")
        self.options = Main.CompilationOptions(
            Options.default_options, compiler_directives=directives, include_path=[str(root)]
        )
        self.context = Main.Context.from_options(self.options)

    def state(self, path):
        """The state of a module and of its C code, and the number of variables that Cython warns of, with constants."""
        name = ".".join(path.relative_to(self.root).with_suffix("").parts)
        source = Main.CompilationSource(FileSourceDescriptor(str(path)), name, str(self.root))
        result = Main.create_default_resultobj(source, self.options)
        parse, *stages = Pipeline.create_pyx_pipeline(self.context, self.options, result)
        kinds = [type(stage) for stage in stages]
        stages = stages[: kinds.index(AnalyseDeclarationsTransform) + 1]
        written = io.StringIO()
        Errors.reset()
        Errors.threadlocal.cython_errors_listing_file = written
        Errors.threadlocal.cython_errors_echo_file = None
        try:
            reader = Reader()

            def read(tree):
                reader.visit(tree)
                return tree

            error, tree = Pipeline.run_pipeline([parse, read, *stages], source)
        finally:
            Errors.reset()
        if error is not None or tree is None:
            raise AssertionError(written.getvalue())
        places = warned(written.getvalue())
        found = reader.found | set(changed_at(reader)) | changing(reader, tree.scope, places)
        return {"kept": sorted(found), "in_c": sorted(reader.found_in_c), "n_warnings": len(places)}


def warned(text):
    """{(line, column)} of the C variables at module level, of which Cython warns."""
    places = re.findall(r"^warning: [^\n]*?:(\d+):(\d+): Global cdef", text, re.MULTILINE)
    return {(int(line), int(column)) for line, column in places}


def changing(reader, scope, places):
    """Module-level variables, of C and of Python, that are not constant."""
    found = set()
    entries = {str(entry.name): entry for entry in scope.var_entries if entry.pos and entry.pos[1:] in places}
    for name in [*entries, *(name for name in reader.values if name not in entries)]:
        values = reader.values.get(name, [])
        type_ = entries[name].type if name in entries else None
        if type_ is not None and (type_.is_int or type_.is_float or type_.is_enum):
            continue  # a number: found by its `global`, if any
        if type_ is not None and type_.is_builtin_type and type_.name in ("str", "bytes"):
            continue
        if name == "__all__" and name not in entries:
            continue
        if not values or any(
            value is None or is_container(value) or not is_constant(value, reader.foreign) for value in values
        ):
            found.add(name)
            reader.foreign.add(name)
    return found


def main(folder):
    analysis = Analysis(folder.parent)
    paths = sorted(folder.rglob("*.pyx"))
    print(json.dumps({str(path.relative_to(folder)): analysis.state(path) for path in paths}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
