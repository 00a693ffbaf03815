"""The planted bugs, from mutants.toml."""

import dataclasses
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
TABLE = pathlib.Path(__file__).with_name("mutants.toml")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A bug: `old` in `file`, where it occurs once, becomes `new`; the tests, pytest's arguments, must notice it."""

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    monitor: str | None = None

    def applied_to(self, text: str) -> str:
        return text.replace(self.old, self.new)

    def problem(self) -> str | None:
        """Why it cannot be planted."""
        path = ROOT / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        if (count := path.read_text().count(self.old)) != 1:
            return f"`old` occurs {count} times in {self.file}"
        return None if self.old != self.new else "`old` and `new` are the same"


def read() -> list[Mutant]:
    with TABLE.open("rb") as file:
        rows = tomllib.load(file)["mutant"]
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]
