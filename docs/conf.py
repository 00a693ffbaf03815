"""The documentation site: `make docs` builds it into build/site.

The sources are the Markdown files of the repository where they are, so that their links work in both places. The
reference comes from the docstrings of the installed package. Sphinx reads this file; decision 0020 says why Sphinx.
"""

import re
import sys
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

import uringloop

sys.path.insert(0, str(Path(__file__).parent))

project = "uringloop"
author = copyright = "the uringloop authors"
version = release = uringloop.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "docs/reference/*.md",
    "docs/spin/README.md",
    "benchmarks/*.md",
    "benchmarks/gate/*.md",
    "changes/README.md",
]
exclude_patterns = [
    ".git",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
    "third_party",
    "tests",
    "uringloop",
]
default_role = "literal"
highlight_language = "none"  # indented blocks are for a shell

myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "uringloop"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
# The first page is docs/index.html; this one leads there.
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_static"]
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

autodoc_default_options = {"members": True, "member-order": "bysource", "undoc-members": False}
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

SECTION = re.compile(r"(Parameters|Returns|Raises|Thread|Source):\s*(.*)")
CODE = re.compile(r"(``.*?``|`[^`]*`)")


def escaped(text: str) -> str:
    """Plain text for reStructuredText: `code` is code, and no other character has a meaning."""
    pieces = CODE.split(text)
    for at, piece in enumerate(pieces):
        if at % 2:
            pieces[at] = f"``{piece.strip('`')}``"
        else:
            pieces[at] = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", piece)
    return "".join(pieces)


def fields(lines: list[str]) -> list[str]:
    """The sections of our docstrings (Parameters, Returns ...) as fields."""
    made: list[str] = []
    inside = ""
    for line in lines:
        section = SECTION.match(line)
        parameter = re.match(r" {4}([\w*, ]+): (.*)", line) if inside == "Parameters" else None
        if section:
            if not inside and made and made[-1]:
                made.append("")
            inside = section[1]
            if inside != "Parameters":
                made.append(f":{inside}: {escaped(section[2])}")
        elif parameter:
            made += [f":param {name}: {escaped(parameter[2])}" for name in parameter[1].split(", ")]
        elif inside and line.strip():
            made.append("    " + escaped(line.strip()))
        elif line.strip():
            made.append(escaped(line))
        else:
            inside = ""
            made.append("")
    return made


def process_docstring(
    app: object, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    lines[:] = fields(lines)


def forget_overloads(module: str) -> None:
    """Show one signature for a function, not a screenful of those that type checkers need."""
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    analyzer.overloads.clear()


def setup(app: object) -> None:
    for module in ("uringloop.files.opening", "uringloop.files.temporary"):
        forget_overloads(module)
    app.connect("autodoc-process-docstring", process_docstring)  # type: ignore[attr-defined]
