"""benchmarks/gate: what callgrind writes is understood, and counts that can be compared are compared rightly."""

import json
import os
import subprocess

import pytest

from benchmarks.gate import callgrind, command, counting, fingerprint, paths, plants, reference, verdict
from benchmarks.gate.verdict import Counts

OURS = "/tree/uringloop/aio/ready.so"

# Costs follow a position; that behind `calls=` is the callee's, too, and has its own lines. Names come once.
DUMP = f"""# callgrind format
version: 1
part: 3

desc: I1 cache:
desc: Trigger: Client Request: call_soon/chain/epoll 0 1

positions: line
event: sysTime : sysTime (elapsed ms)
events: Ir sysCount sysTime
summary: 900 2 1

ob=(1) /lib/libc.so.6
fl=(1) ???
fn=(1) malloc
0 100
+3 20 2 1

ob=(2) {OURS}
fn=(2) run
0 30
cob=(1)
cfn=(1)
calls=4 0
0 120 2 1
* 7

ob=(1)
fn=(3) free
16 500
cob=(3) /lib/never-again.so
cfn=(4) x
calls=1 0
0 5

ob=(3)
fn=(4)
0 5

totals: 662 2 1
"""


def is_ours(name):
    return name.startswith("/tree/uringloop/")


def test_a_dump_is_read():
    assert callgrind.parse(DUMP, is_ours) == callgrind.Dump("call_soon/chain/epoll 0 1", 662, 37, 2)


def test_zeros_at_the_end_of_the_totals_may_be_missing():
    text = DUMP.replace("totals: 662 2 1", "totals: 662")
    assert callgrind.parse(text, is_ours).syscalls == 0


@pytest.mark.parametrize("trigger", ["Program termination", "Client Request: "])
def test_a_dump_without_a_label_is_none(trigger):
    text = DUMP.replace("Client Request: call_soon/chain/epoll 0 1", trigger)
    assert callgrind.parse(text, is_ours) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("totals: 662", "totals: 663", "add up to 662"),
        ("totals: 662 2 1\n", "", "no totals"),
        ("events: Ir sysCount sysTime", "events: Ir Dr", "other events"),
        ("ob=(1)\nfn=(3)", "ob=(9)\nfn=(3)", "has no name"),
        ("ob=(1)\nfn=(3)", "ob=libc\nfn=(3)", "no object file"),
    ],
)
def test_what_is_not_understood_is_an_error(old, new, reason):
    assert old in DUMP
    with pytest.raises(callgrind.NotUnderstood, match=reason):
        callgrind.parse(DUMP.replace(old, new), is_ours)


def dumps(rows):
    return [callgrind.Dump(label, *counts) for label, *counts in rows]


def test_an_operation_is_the_difference_of_the_lowest_runs():
    found = verdict.per_operation(
        dumps(
            [
                ("a/b/epoll 0 1", 1500, 300, 11),
                ("a/b/epoll 0 2", 2500, 510, 21),
                ("a/b/epoll 1 1", 1501, 290, 12),
                ("a/b/epoll 1 2", 2400, 500, 22),
            ]
        ),
        {"a/b/epoll": 10},
    )
    assert found == {"a/b/epoll": Counts(90.0, 21.0, 1.0)}


def test_a_path_without_counts_is_an_error():
    with pytest.raises(ValueError, match="a/b was not counted"):
        verdict.per_operation(dumps([("a/b 0 1", 1, 1, 1)]), {"a/b": 10})


BEFORE = Counts(1000.0, 200.0, 1.0)


@pytest.mark.parametrize(
    ("now", "kind", "reason"),
    [
        (Counts(1000, 200, 1), "same", None),
        (Counts(1014, 205, 1.4), "same", None),
        (Counts(1016, 200, 1), "slower", "+1.6% instructions"),
        (Counts(1030, 230, 1), "slower", "+3.0% instructions"),
        (Counts(1007, 207, 1), "slower", "+3.5% instructions in uringloop's modules"),
        (Counts(999, 260, 1), "same", None),  # the modules do what CPython did before, for no more
        (Counts(1004, 205, 1), "same", None),  # 2.5 % of ours
        (Counts(1000, 200, 2), "slower", "+1.0 system calls"),
        (Counts(900, 200, 2), "slower", "+1.0 system calls"),
        (Counts(980, 180, 1), "faster", "-2.0% instructions"),
        (Counts(1000, 200, 0), "faster", "-1.0 system calls"),
    ],
)
def test_verdicts(now, kind, reason):
    found = verdict.judge(BEFORE, now, 0.015)
    assert found.kind == kind
    assert (reason is None) == (found.reasons == ())
    assert reason is None or reason in found.reasons[0]


def test_a_path_may_have_a_limit_of_its_own():
    assert verdict.judge(BEFORE, Counts(1025, 200, 1), 0.03).kind == "same"
    assert verdict.judge(BEFORE, Counts(1035, 200, 1), 0.03).kind == "slower"


def test_a_little_of_a_tiny_share_says_nothing():
    assert verdict.judge(Counts(10000, 50, 1), Counts(10010, 60, 1), 0.015).kind == "same"


def test_the_table_names_what_changed():
    before = {"a": BEFORE, "b": BEFORE, "c": BEFORE}
    lines = verdict.table(
        before,
        {"a": BEFORE, "b": Counts(1100, 300, 1), "c": Counts(800, 100, 1)},
        dict.fromkeys("abc", 0.015),
    )
    assert len(lines) == 1 + 3 + 2
    assert lines[4].startswith("SLOWER: b: +10.0% instructions")
    assert lines[5].startswith("FASTER: c: -20.0% instructions")


def test_counts_survive_the_file():
    rows = {"a": Counts(1.5, 0.25, 1.0)}
    assert (
        verdict.from_json(json.loads(json.dumps({name: row.as_json() for name, row in rows.items()}))) == rows
    )


# The fingerprint.

MAPS = """55d0-55d1 r--p 00000000 fe:00 12 /usr/bin/python3.11
7f00-7f01 r-xp 00000000 fe:00 1 /usr/local/lib/libpython3.11.so.1.0
7f02-7f03 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6
7f04-7f05 r-xp 00000000 fe:00 3 /usr/lib/libcap.so.2
7f06-7f07 rw-p 00000000 00:00 0
7f08-7f09 r-xp 00000000 fe:00 4 /usr/lib/libssl.so.3
7ffd-7ffe rw-p 00000000 00:00 0 [stack]
"""

STRINGS = """
File: /tree/uringloop/aio/ready.so

String dump of section '.comment':
  [     0]  GCC: (Debian 12.2.0-14) 12.2.0

String dump of section '.GCC.command.line':
  [     0]  GNU C17 12.2.0 -mtune=generic -g -g0 -O2 -O3 -Wall -fPIC -I/usr/local/include -fmacro-prefix-map=/a=. -DX=1
  [    8a]  GNU C17 12.2.0 -mtune=generic -g -g0 -O2 -O3 -Wall -fPIC -I/other/include
"""


def test_libraries_are_found_in_the_maps():
    found = {name: str(path) for name, path in fingerprint.loaded_libraries(MAPS).items()}
    assert found == {
        "libpython": "/usr/local/lib/libpython3.11.so.1.0",
        "libc": "/usr/lib/libc.so.6",
        "libssl": "/usr/lib/libssl.so.3",
    }


def test_the_fingerprint_has_flags_that_change_code():
    assert fingerprint.compiler_and_flags(STRINGS) == [
        "GCC: (Debian 12.2.0-14) 12.2.0",
        "flags: -mtune=generic -O2 -O3 -fPIC",
    ]


def test_the_order_of_flags_matters():
    other = fingerprint.compiler_and_flags(STRINGS.replace("-O2 -O3", "-O3 -O2"))
    assert other != fingerprint.compiler_and_flags(STRINGS)


def test_differences_name_the_part():
    assert fingerprint.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b: 2 in the reference, 3 here",
        "c: None in the reference, 4 here",
    ]


# The reference.


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


TREE = {
    "setup.py": "",
    "building/x.py": "",
    "third_party/x.c": "",
    "README.md": "",
    "uringloop/a/one.pyx": "1",
    "uringloop/a/two.pyx": "2",
    "uringloop/a/one.pxd": "",
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    write(folder, TREE)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(reference, "REPOSITORY", folder)
    return folder


def recorded():
    commit = reference.clean_commit()
    return {"commit": commit, "sources": reference.sources_of(commit)}


def test_the_reference_is_the_commit_of_the_sources(repository):
    before = recorded()
    write(repository, {"README.md": "changed"})
    assert recorded() == before
    git(repository, "commit", "-qam", "a document")
    assert recorded() == before
    assert reference.is_present(before)
    write(repository, {"uringloop/a/one.pyx": "changed"})
    assert reference.clean_commit() is None
    assert not reference.is_present(before)
    git(repository, "commit", "-qam", "a source")
    assert recorded() != before
    assert not reference.is_present(before)
    assert reference.find_commit(before) == before["commit"]


def test_a_rebased_reference_is_found_by_its_sources(repository):
    before = recorded()
    git(repository, "commit", "-q", "--amend", "-m", "the same under another name")
    write(repository, {"uringloop/a/one.pyx": "changed"})
    git(repository, "commit", "-qam", "a source")
    found = reference.find_commit(before | {"commit": "0" * 40})
    assert found == git(repository, "rev-parse", "HEAD~1")


def test_a_reference_outside_the_history_is_an_error(repository):
    with pytest.raises(counting.CannotMeasure, match="git fetch --unshallow"):
        reference.find_commit({"commit": "0" * 40, "sources": "other"})


def test_without_a_repository_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "REPOSITORY", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not reference.is_present({"commit": "0" * 40, "sources": "other"})
    with pytest.raises(counting.CannotMeasure, match="cannot be built"):
        reference.find_commit({"commit": "0" * 40, "sources": "other"})


def test_a_commit_is_extracted_without_later_changes(repository, tmp_path):
    commit = git(repository, "rev-parse", "HEAD")
    write(repository, {"uringloop/a/one.pyx": "changed"})
    reference.extract(commit, tmp_path / "out")
    assert (tmp_path / "out/uringloop/a/one.pyx").read_text() == "1"


MODULES = {"uringloop/a/one.cpython-311.so": "one", "uringloop/a/two.cpython-311.so": "two"}


@pytest.mark.parametrize(
    ("changed", "copied"),
    [
        ("uringloop/a/two.pyx", {"one"}),
        ("uringloop/a/one.pxd", set()),
        ("building/x.py", set()),
        ("setup.py", set()),
        ("README.md", {"one", "two"}),
    ],
)
def test_only_modules_with_the_same_inputs_are_reused(tmp_path, changed, copied):
    present, other = tmp_path / "present", tmp_path / "other"
    write(present, TREE | MODULES)
    write(other, TREE | {changed: "changed"})
    assert reference.seed(other, present) == len(copied)
    assert {path.read_text() for path in fingerprint.modules(other)} == copied


def test_a_module_that_is_older_than_its_source_is_an_error(tmp_path):
    with pytest.raises(counting.CannotMeasure, match="not built"):
        write(tmp_path, TREE)
        reference.check_built(tmp_path)
    write(tmp_path, MODULES)
    reference.check_built(tmp_path)
    for name in TREE:
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / "uringloop/a/two.cpython-311.so", (0, 0))
    with pytest.raises(counting.CannotMeasure, match=r"two\.pyx is newer"):
        reference.check_built(tmp_path)


# The command.


@pytest.fixture
def gate(monkeypatch):
    """Runs the command on counts that the test supplies, one dict for each time that it counts."""

    def run(before, *nows):
        rounds = list(nows)
        document = {
            "commit": "c" * 40,
            "fingerprint": {"x": 1},
            "counts": {name: row.as_json() for name, row in before.items()},
        }
        monkeypatch.setattr(command, "check_tools", lambda: None)
        layouts = []

        def count(tree, names, layout=0):
            layouts.append(layout)
            now = rounds.pop(0)
            assert list(now) == names
            return now

        monkeypatch.setattr(command, "count", count)
        monkeypatch.setattr(command.paths, "names", lambda: list(before))
        monkeypatch.setattr(command, "_limits", lambda: dict.fromkeys(before, 0.015))
        monkeypatch.setattr(command.reference, "check_built", lambda tree: None)
        monkeypatch.setattr(command.reference, "load", lambda: document)
        monkeypatch.setattr(command.fingerprint, "take", lambda tree: {"x": 1})
        options = command.argparse.ArgumentParser()
        command.add_options(options)
        status = command.run(options.parse_args([]))
        assert rounds == []
        assert layouts == list(range(len(nows)))  # each try in another layout
        return status

    return run


SLOW = Counts(1100, 300, 1)


def test_nothing_slower_is_status_0(gate, capsys):
    assert gate({"a": BEFORE}, {"a": BEFORE}) == 0
    assert "1 paths, 0 slower" in capsys.readouterr().out


def test_what_is_slower_three_times_is_status_1(gate, capsys):
    assert gate({"a": BEFORE, "b": BEFORE}, {"a": BEFORE, "b": SLOW}, {"b": SLOW}, {"b": SLOW}) == 1
    assert "SLOWER: b: +10.0% instructions" in capsys.readouterr().out


def test_what_is_slower_once_is_counted_again(gate):
    assert gate({"a": BEFORE, "b": BEFORE}, {"a": BEFORE, "b": SLOW}, {"b": BEFORE}) == 0


def test_what_cannot_be_measured_is_status_2(gate, monkeypatch, capsys):
    def fail(tree, names):
        raise counting.CannotMeasure("the reason")

    monkeypatch.setattr(command, "check_tools", lambda: fail(None, None))
    options = command.argparse.ArgumentParser()
    command.add_options(options)
    assert command.run(options.parse_args([])) == 2
    assert "the reason" in capsys.readouterr().err


# The plants.


@pytest.mark.parametrize("plant", plants.PLANTS.values(), ids=plants.PLANTS)
def test_each_plant_has_its_place(plant):
    text = (reference.REPOSITORY / plant.source).read_text()
    found = plants.planted(text, plant.before, 11)
    assert len(found.splitlines()) == len(text.splitlines()) + 1 + len(plants.WORK.splitlines())
    assert f"ul_plant(11)\n{plant.before}" in found
    assert f"{plant.path}/io_uring" in paths.names()
    assert f"{plant.path}/epoll" in paths.names()


def test_a_place_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match="not there once"):
        plants.planted("cdef class X:\n", "    gone\n", 1)


def test_the_reference_has_each_path():
    assert list(reference.load()["counts"]) == paths.names()
