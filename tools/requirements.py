"""Print the requirements of optional-dependency groups of pyproject.toml, or of "build", one per line.

`pip install '.[demo]'` would compile the package again for each group; with this it is built once.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# The demo uses uvicorn's fast HTTP parser, its websockets, and loop factories, added in 0.36.
ADDED = {"demo": ["httptools", "websockets", "uvicorn>=0.36"]}


def normalised(name: str) -> str:
    """The name of a distribution without differences of case and separators."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(group: str, project: dict) -> list[str]:
    """The group's lines; `project[other]` among them stands for another group of this project."""
    found = []
    for line in project["optional-dependencies"][group]:
        own = re.fullmatch(r"([A-Za-z0-9._-]+)\s*\[([^]]*)\]\s*", line)
        if own and normalised(own[1]) == normalised(project["name"]):
            for other in own[2].split(","):
                found += requirements(other.strip(), project)
        else:
            found.append(line)
    return found


def main() -> None:
    pyproject = tomllib.loads(PYPROJECT.read_text())
    project = pyproject["project"]
    project["optional-dependencies"]["build"] = pyproject["build-system"]["requires"]
    lines = [line for group in sys.argv[1:] for line in requirements(group, project) + ADDED.get(group, [])]
    print("\n".join(dict.fromkeys(lines)))


if __name__ == "__main__":
    main()
