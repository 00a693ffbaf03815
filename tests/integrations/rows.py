"""The rows of frameworks.toml: a way to use a framework on uringloop, and how it is run and checked."""

import pathlib
import tomllib
from dataclasses import dataclass, field

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
PROGRAMS = FOLDER / "programs"
TABLE = FOLDER / "frameworks.toml"
RESULTS = FOLDER / "results.json"

MONITORS = ("io_uring", "epoll")


@dataclass(frozen=True)
class Row:
    """One row of the document."""

    name: str
    title: str  # the framework, as the document shows it
    area: str  # the section of the document
    line: list[str]  # what chooses the loop, verbatim from `command`, `environment`, `files` or the program
    requires: list[str]  # the first is the framework itself; default: those of `environment_name`
    environment_name: str = ""  # the row whose virtual environment this one shares; default: its own
    program: str = ""  # the file in programs/
    command: list[str] = field(default_factory=list)  # default: python PROGRAM
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # written to the working folder
    traffic: list[str] = field(default_factory=list)  # empty: the program checks itself, and ends by itself
    n_processes: int = 1  # that report their loop
    services: list[str] = field(default_factory=list)
    python: str = ""  # such as ">=3.12"
    end: str = "SIGTERM"
    exits: list[int] = field(default_factory=lambda: [0, -15, 143])
    allows: list[str] = field(
        default_factory=list
    )  # regular expressions for lines of stderr that are expected
    limit: str = ""  # for the document
    source: dict[str, str] = field(
        default_factory=dict
    )  # {file, text}: the framework's line behind the limit
    not_run: str = ""  # why the row has no results
    timeout_s: int = 120

    @property
    def is_server(self) -> bool:
        return bool(self.traffic)

    @property
    def package(self) -> str:
        """The distribution whose version the document shows."""
        return bare_name(self.requires[0])

    def full_command(self, port: int) -> list[str]:
        command = self.command or ["python", str(PROGRAMS / self.program), "{port}"]
        return [word.format(port=port, programs=PROGRAMS) for word in command]

    def texts(self) -> list[str]:
        """Where a line of the document may come from."""
        found = [" ".join(self.command), *self.files.values()]
        found += [f"{name}={value}" for name, value in self.environment.items()]
        if self.environment and self.command:
            found.append(" ".join([f"{k}={v}" for k, v in self.environment.items()] + self.command))
        if self.program:
            found.append((PROGRAMS / self.program).read_text())
        return found


def bare_name(requirement: str) -> str:
    """uvicorn[standard]>=0.36 -> uvicorn."""
    for at, character in enumerate(requirement):
        if not (character.isalnum() or character in "._-"):
            return requirement[:at]
    return requirement


def read_rows(path: pathlib.Path = TABLE) -> dict[str, Row]:
    """Rows by name; one that shares an environment has the requirements of its owner."""
    rows: dict[str, Row] = {}
    for area, tables in tomllib.loads(path.read_text()).items():
        for name, values in tables.items():
            line = values.pop("line")
            requires = values.pop("requires", None) or rows[values["environment_name"]].requires
            lines = [line] if isinstance(line, str) else line
            rows[name] = Row(name=name, area=area, line=lines, requires=requires, **values)
    return rows
