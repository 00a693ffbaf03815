"""docs/compatibility.md: every line is proven by tests that exist, and every behaviour test proves a line."""

import importlib.util
import re

from .documents import ROOT

_spec = importlib.util.spec_from_file_location("compatibility", ROOT / "tools" / "compatibility.py")
compatibility = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compatibility)


def behaviour_tests():
    for path in sorted((ROOT / "tests" / "behaviour").rglob("test_*.py")):
        for name in re.findall(r"^(?:async )?def test_(\w+)", path.read_text(), re.MULTILINE):
            yield path.stem.removeprefix("test_"), name


def patterns():
    return [
        pattern for rows in compatibility.read_features().values() for row in rows.values() for pattern in row
    ]


def test_every_pattern_finds_a_test():
    tests = list(behaviour_tests())
    stale = [
        pattern for pattern in patterns() if not any(compatibility.proves(pattern, *test) for test in tests)
    ]
    assert not stale


def test_every_behaviour_test_proves_a_feature():
    known = patterns()
    orphans = [
        test
        for test in behaviour_tests()
        if not any(compatibility.proves(pattern, *test) for pattern in known)
    ]
    assert not orphans


def test_the_document_has_every_feature():
    text = compatibility.DOCUMENT.read_text()
    rows = re.findall(r"^\| (.+?) \| (?:yes|-|\*\*no\*\*) \|", text, re.MULTILINE)
    assert rows == [name for features in compatibility.read_features().values() for name in features]
    assert "**no**" not in text.split("\n## ", 1)[1]


def test_each_line_links_to_the_files_that_prove_it():
    """Checked without running all tests, and in the order that the tool writes."""
    text = compatibility.DOCUMENT.read_text()
    linked = [
        re.findall(r"test_(\w+)\.py", row) for row in re.findall(r"^\| .+ \|.*test_.*$", text, re.MULTILINE)
    ]
    proving = [
        sorted(
            {
                file
                for file, name in behaviour_tests()
                if any(compatibility.proves(pattern, file, name) for pattern in row)
            }
        )
        for rows in compatibility.read_features().values()
        for row in rows.values()
    ]
    assert linked == proving


def test_a_failure_shows_in_the_table(tmp_path):
    results = tmp_path / "tests.xml"
    results.write_text(
        '<testsuites><testsuite><testcase classname="tests.behaviour.datagrams.test_udp" name="test_a[io_uring]"/>'
        '<testcase classname="tests.behaviour.datagrams.test_udp" name="test_a[x-epoll]"><failure/></testcase>'
        '<testcase classname="tests.behaviour.datagrams.test_udp" name="test_a[poll]"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    features = {"Area": {"datagrams": ["udp"]}}
    table = compatibility.render(features, compatibility.read_results(str(results)))
    assert "| datagrams | yes | **no** | - | - | [udp](../tests/behaviour/datagrams/test_udp.py) |" in table
