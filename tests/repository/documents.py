"""The documents of this repository and their contents."""

import importlib.util
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINKED = DOCUMENTS + sorted(
    [*ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("changes/README.md"), *ROOT.glob("tests/**/*.md")]
)

# The beginnings of indented blocks that are shell commands; other blocks are Python.
SHELL = ("apt-get", "dnf", "make", "pip", "python", "python3", "uvicorn", ".venv/", "$", "URINGLOOP_", "git")


def without_code(text):
    """The text without fenced and indented blocks and `code`."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def python_samples(path):
    """[(line, source)] of all Python blocks: fenced ones, and indented ones that are not for a shell."""
    lines = path.read_text().split("\n")
    found, at = [], 0
    while at < len(lines):
        begin = at
        if lines[at].startswith("```"):
            language = lines[at][3:].strip()
            at += 1
            while not lines[at].startswith("```"):
                at += 1
            if language == "python":
                found.append((begin + 2, "\n".join(lines[begin + 1 : at])))
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            block = textwrap.dedent("\n".join(lines[begin:at])).strip("\n")
            if not block.startswith(SHELL):
                found.append((begin + 1, block))
            continue
        at += 1
    return found


# Packages that a sample may need and that the tests may be without; the sample is then left out.
OPTIONAL = ("fastapi", "opentelemetry", "prometheus_client")


def runnable_samples(path):
    """python_samples() without those that need an optional package that is not installed."""
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    return [
        (line, source)
        for line, source in python_samples(path)
        if not any(re.search(rf"^(?:import|from) {name}\b", source, re.MULTILINE) for name in missing)
    ]


def anchors(path):
    """The anchors of this document's headings, as on GitHub."""
    headings = re.findall(r"^#+ +(.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
