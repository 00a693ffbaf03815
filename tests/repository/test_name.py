"""The distribution's name stands in one line of pyproject.toml, and nothing says to install it by that name.

`uringloop` is another project's name on PyPI.
"""

import re
import subprocess
import tomllib

import pytest

from .documents import ROOT

NAME = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
# `pip install uringloop`, `uv add 'uringloop[test]>=1'`, `name = "uringloop"` in a requirement; not a path or a module.
INSTALLS = re.compile(
    r"\b(?:pip3?|pipx|uv|poetry|pdm|conda|uvx)\b[^\n|`]*\b(?:install|add|run|tool|--with|-U)\b[^\n|`]*"
    r"[\s'\"]" + re.escape(NAME) + r"(?=[\[\s'\"`=<>~,.;)]|$)(?!\.\w|/)",
)


def texts():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    for name in done.stdout.decode().split("\0"):
        path = ROOT / name
        if (
            path.suffix in (".py", ".pyx", ".md", ".toml", ".yml", ".yaml", ".sh", ".ipynb", ".cff")
            and path.exists()
        ):
            yield name, path.read_text()


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        (f"pip install {NAME}", True),
        (f"pip install '{NAME}[examples]'", True),
        (f"uv add {NAME}>=1", True),
        ("pip install .", False),
        (f"pip install dist/{NAME}-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", False),
        (f"pip install git+https://example.org/{NAME}.git", False),
    ],
)
def test_the_pattern(line, is_found):
    assert bool(INSTALLS.search(line)) == is_found


def test_nothing_says_to_install_it_by_that_name():
    found = [
        f"{name}: {match[0]}"
        for name, text in texts()
        if name != "tests/repository/test_name.py"
        for match in INSTALLS.finditer(text)
    ]
    assert found == []


def test_only_pyproject_has_the_name_of_the_distribution():
    """No code asks for the metadata of a distribution of that name; extras are named without it."""
    pattern = re.compile(rf"metadata\.(?:version|distribution|metadata)\(\s*['\"]{NAME}|\b{NAME}\[(?:\w+)\]")
    found = [
        name for name, text in texts() if pattern.search(text) and name != "tests/repository/test_name.py"
    ]
    assert found == []
