"""docs/integrations.md is what its table and its results say, and no row is without both."""

import pytest
from integrations.document import DOCUMENT, read_results, render
from integrations.rows import MONITORS, PROGRAMS, read_rows

ROWS = read_rows()
RESULTS = read_results()


def test_the_document_is_generated_from_table_and_results():
    assert DOCUMENT.read_text() == render(ROWS, RESULTS), "python -m tests.integrations --document"


def test_there_are_results_of_every_row_and_of_no_other():
    assert sorted(RESULTS) == sorted(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_passes_on_both_monitors_or_says_why_it_was_not_run(name):
    result = RESULTS[name]
    if "why" in result:
        assert ROWS[name].not_run
    else:
        assert result["results"] == dict.fromkeys(MONITORS, "passed")


@pytest.mark.parametrize("name", ROWS)
def test_the_line_is_what_is_run(name):
    row = ROWS[name]
    assert [line for line in row.line if not any(line in text for text in row.texts())] == []


def test_every_requirement_has_a_lower_bound():
    missing = [text for row in ROWS.values() for text in row.requires if ">=" not in text and "@" not in text]
    assert missing == []


def test_every_program_belongs_to_a_row():
    """Or to another program."""
    used = " ".join(
        text for row in ROWS.values() for text in (row.program, *row.command, *row.files.values())
    )
    used += " ".join(path.read_text() for path in PROGRAMS.glob("*.py"))
    assert [path.name for path in sorted(PROGRAMS.glob("*.py")) if path.stem not in used] == []


def test_there_are_as_many_rows_as_promised():
    assert sum("results" in result for result in RESULTS.values()) >= 30
