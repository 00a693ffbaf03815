"""tools/seccomp_profile.py: io_uring is allowed, and nothing else changes."""

import json
import subprocess
import sys

import pytest
from support.helpers import run_script

from .documents import ROOT
from .test_kernel_features import io_uring_works

CALLS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}

# In the form of Docker's and podman's, with each kind of condition.
DEFAULT = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
    ],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {"names": ["io_uring_setup", "bdflush"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"name": "io_uring_enter", "action": "SCMP_ACT_ERRNO"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
        },
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {
            "names": ["bpf"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["s390"]}},
    ],
}


@pytest.fixture
def convert(tmp_path):
    """A function that runs the tool on a profile."""

    def run(profile, *options):
        path = tmp_path / "default.json"
        path.write_text(json.dumps(profile))
        command = [sys.executable, str(ROOT / "tools" / "seccomp_profile.py"), *options, str(path)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return run


def rules(profile):
    return [(rule["action"], *rule["names"]) for rule in profile["syscalls"]]


def test_the_rule_is_added_and_the_rest_stays(convert):
    found = convert(DEFAULT)
    assert {key: value for key, value in found.items() if key != "syscalls"} == {
        key: value for key, value in DEFAULT.items() if key != "syscalls"
    }
    untouched = [rule for rule in DEFAULT["syscalls"] if not {"io_uring_setup"} & set(rule.get("names", []))]
    untouched = [rule for rule in untouched if "name" not in rule]
    assert [rule for rule in found["syscalls"] if rule in untouched] == untouched
    assert rules(found)[-1] == ("SCMP_ACT_ALLOW", "io_uring_enter", "io_uring_register", "io_uring_setup")


def test_no_call_of_io_uring_has_two_rules(convert):
    found = rules(convert(DEFAULT))
    for call in CALLS:
        assert [rule[0] for rule in found if call in rule] == ["SCMP_ACT_ALLOW"]
    assert ("SCMP_ACT_ERRNO", "bdflush") in found


def test_the_documents_rule_is_the_one_that_is_added(convert):
    text = (ROOT / "docs" / "containers.md").read_text()
    sample = text.split("```json\n")[1].split("```")[0]
    assert json.loads(sample) == convert(DEFAULT)["syscalls"][-1]


def test_conditions_are_decided_for_an_unprivileged_container(convert):
    found = convert(DEFAULT, "--oci")
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert found["defaultErrnoRet"] == 38
    assert rules(found) == [
        ("SCMP_ACT_ALLOW", "read", "write"),
        ("SCMP_ACT_ERRNO", "bdflush"),
        ("SCMP_ACT_ALLOW", "personality"),
        ("SCMP_ACT_ALLOW", "arch_prctl"),
        ("SCMP_ACT_ALLOW", "ptrace"),
        ("SCMP_ACT_ALLOW", "chroot"),
        ("SCMP_ACT_ERRNO", "bpf"),
        ("SCMP_ACT_ALLOW", "clone"),
        ("SCMP_ACT_ALLOW", "io_uring_enter", "io_uring_register", "io_uring_setup"),
    ]
    assert not {"archMap", "includes", "excludes"} & {
        key for one in [found, *found["syscalls"]] for key in one
    }
    assert found["syscalls"][2]["args"] == DEFAULT["syscalls"][3]["args"]
    assert found["syscalls"][1]["errnoRet"] == 1


def test_conditions_follow_the_architecture_and_the_capabilities(convert):
    found = convert(DEFAULT, "--oci", "--arch", "arm64", "--cap", "CAP_SYS_ADMIN")
    assert found["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert ("SCMP_ACT_ALLOW", "arch_prctl") not in rules(found)
    assert [rule for rule in rules(found) if "bpf" in rule] == [("SCMP_ACT_ALLOW", "bpf")]


def refused(profile):
    """The numbers of io_uring's calls that a profile without conditions refuses."""
    allowed = {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    return [number for name, number in CALLS.items() if name not in allowed]


@pytest.mark.skipif(not io_uring_works(), reason="io_uring is refused here already")
def test_a_process_with_the_profile_gets_io_uring_and_one_without_does_not(convert):
    """The kernel's filter with what the profiles say of the three calls."""
    source = """
    import errno, uringloop
    if {numbers}:
        refuse_calls({numbers}, errno.ENOSYS)
    loop = uringloop.new_event_loop()
    print(loop.fdmon)
    loop.close()
    """
    before = refused({"syscalls": [rule for rule in DEFAULT["syscalls"] if "names" in rule]})
    after = refused(convert(DEFAULT, "--oci"))
    assert run_script(source.format(numbers=before)) == "epoll\n"
    assert run_script(source.format(numbers=after)) == "io_uring\n"
