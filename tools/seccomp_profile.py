"""Allow io_uring in a container's seccomp profile.

    python tools/seccomp_profile.py DEFAULT.json > PROFILE.json
    python tools/seccomp_profile.py --oci DEFAULT.json > PROFILE.json

DEFAULT.json is the profile that the runtime uses otherwise (docs/containers.md says where it is); everything but the
three calls stays as it is there.  The rule that is added is docs/containers/io_uring.json.

--oci: for readers that know only the form of the OCI runtime specification, as containerd's for Kubernetes.  Docker's
form has conditions (capabilities, architectures, kernel versions) which such a reader ignores, so that it would allow
more than Docker.  They are decided here, for one architecture and set of capabilities.

Needs nothing but Python.
"""

import argparse
import json
import pathlib
import sys

RULE = pathlib.Path(__file__).parents[1] / "docs" / "containers" / "io_uring.json"

# Go's names of architectures, which profiles use, and libseccomp's.
ARCHITECTURES = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}

# What Docker, containerd and podman leave to a container (some of them leave fewer), of those that profiles ask about.
CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_SYS_CHROOT")


def allow_io_uring(profile):
    """The profile with the rule added; rules that name the calls lose them, as one call may have one rule only."""
    rule = json.loads(RULE.read_text())
    rules = []
    for old in profile.get("syscalls", []):
        names = [name for name in names_of(old) if name not in rule["names"]]
        if names:
            new = {key: value for key, value in old.items() if key != "name"}
            rules.append(new | {"names": names})
    return profile | {"syscalls": [*rules, rule]}


def names_of(rule):
    """Old profiles have one name for each rule."""
    return rule.get("names") or [rule["name"]]


def to_oci(profile, architecture, capabilities):
    """The profile without conditions, as they are for one architecture and set of capabilities.

    A condition on the kernel's version is taken as met: those in use are of versions from before io_uring.
    """
    kept = ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
    found = {key: profile[key] for key in kept if key in profile}
    found["architectures"] = profile.get("architectures") or architectures_of(profile, architecture)
    found["syscalls"] = []
    for rule in profile.get("syscalls", []):
        if applies(rule, architecture, capabilities):
            keys = {"action": rule["action"], "errnoRet": rule.get("errnoRet"), "args": rule.get("args")}
            found["syscalls"].append(
                {"names": names_of(rule)} | {key: value for key, value in keys.items() if value}
            )
    return found


def architectures_of(profile, architecture):
    native = ARCHITECTURES[architecture]
    for one in profile.get("archMap", []):
        if one["architecture"] == native:
            return [native, *(one.get("subArchitectures") or [])]
    return [native]


def applies(rule, architecture, capabilities):
    """Whether the conditions of a rule are met."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if architecture in excludes.get("arches", []) or "minKernel" in excludes:
        return False
    if set(excludes.get("caps", [])) & capabilities:
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    return set(includes.get("caps", [])) <= capabilities


def main():
    parser = argparse.ArgumentParser(description="Allow io_uring in a container's seccomp profile.")
    parser.add_argument("profile", type=pathlib.Path, help="the runtime's default profile")
    parser.add_argument("--oci", action="store_true", help="decide the conditions of Docker's form")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="amd64", help="with --oci (default: amd64)")
    parser.add_argument(
        "--cap",
        action="append",
        metavar="CAP_NAME",
        default=[],
        help="with --oci: a capability that is added",
    )
    args = parser.parse_args()
    profile = allow_io_uring(json.loads(args.profile.read_text()))
    if args.oci:
        profile = to_oci(profile, args.arch, {*CAPABILITIES, *args.cap})
    json.dump(profile, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
