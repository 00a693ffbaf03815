"""Why loops do not run on io_uring: the kind, with its exit status, and what to change.

How it works: the kernel's answer (an errno, or the SIGSYS of a filter that kills) says what happened,
`surroundings` says who may have done it.  No system call is made here.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from ..liburing.features import Finding
from ..liburing.refusal import RING_KIB
from .surroundings import Surroundings

# The kinds and their exit statuses, which stay: docs/monitors.md lists them.  2 is a mistake on the command line.
OK, FORCED, NO_LOOP = "ok", "forced", 1
EXIT_STATUS = {
    OK: 0,
    FORCED: 0,  # a decision is no fault
    "sysctl": 10,
    "seccomp": 11,
    "lsm": 12,
    "old-kernel": 13,
    "kernel-config": 14,
    "emulator": 15,
    "build": 16,
    "memlock": 17,
    "nofile": 18,
    "files": 19,
    "memory": 20,
    "other": 21,
    "setting": NO_LOOP,  # $URINGLOOP_FDMON names no monitor
}

CALLS = "io_uring_setup, io_uring_enter and io_uring_register"
FEW_LOOPS = 128  # less room for loops in RLIMIT_MEMLOCK is worth a warning
FEW_FILES = 4096  # so is a lower RLIMIT_NOFILE that could be raised


@dataclass(frozen=True)
class Refusal:
    """The answer to an attempt to get io_uring."""

    errno: int  # 0 where it was not the kernel's
    is_killed: bool = False  # a filter ends the process with SIGSYS
    has_liburing: bool = True


def kind_of(refusal: Refusal, place: Surroundings) -> str:
    """The kind of a refused io_uring, a key of EXIT_STATUS."""
    if refusal.is_killed:
        return "seccomp"
    if not refusal.has_liburing:
        return "build"
    if refusal.errno == errno.EPERM:
        if place.disabled:
            return "sysctl"
        return "seccomp" if place.has_filter else "lsm"
    if refusal.errno == errno.EACCES:
        return "seccomp" if place.has_filter and not place.security_modules else "lsm"
    if refusal.errno == errno.ENOSYS:
        return _kind_of_missing(place)
    if refusal.errno == errno.ENOMEM:
        return "memory" if place.memlock_bytes is None or place.ignores_memlock else "memlock"
    by_errno = {errno.EINVAL: "old-kernel", errno.EMFILE: "nofile", errno.ENFILE: "files"}
    # another errno is none of the kernel's: a filter may answer with any
    return by_errno.get(refusal.errno, "seccomp" if place.has_filter and refusal.errno else "other")


def _kind_of_missing(place: Surroundings) -> str:
    """ENOSYS: there is no such system call, or a filter pretends so."""
    if place.emulator:
        return "emulator"
    if place.is_compiled_in is False:
        return "kernel-config"
    if place.has_filter:
        return "seccomp"
    version = tuple(int(number) for number in re.findall(r"\d+", place.release)[:2])
    return "old-kernel" if version < (5, 1) else "kernel-config"


def changes(kind: str, place: Surroundings, is_killed: bool = False) -> list[str]:
    """What to change, a sentence or command each; the most likely first."""
    if kind == "seccomp":
        return [*_allow_calls(place), *_if_killed(place, is_killed)]
    if kind == "sysctl":
        return _set_sysctl(place)
    if kind == "lsm":
        return _allow_by_module(place)
    if kind == "emulator":
        return _leave_emulator(place)
    return _CHANGES.get(kind, [])


_CHANGES = {
    "setting": ["name io_uring, epoll, poll or auto-any, or unset URINGLOOP_FDMON"],
    "old-kernel": ["run Linux 5.19 or newer; 6.1 or newer for all of its speed (docs/kernel-support.md)"],
    "kernel-config": [
        "run a kernel that is built with CONFIG_IO_URING=y, as those of most distributions are"
    ],
    "build": ["install a build of uringloop with liburing: one made without URINGLOOP_WITHOUT_LIBURING"],
    "memlock": [
        "raise the limit: ulimit -l 65536 (KiB) in a shell; LimitMEMLOCK=64M in a systemd unit; "
        "--ulimit memlock=67108864 of docker and podman; `USER - memlock 65536` in /etc/security/limits.conf",
        "or make fewer loops at once: all processes of a user share the limit",
    ],
    "nofile": [
        "raise the limit: ulimit -n 65536 in a shell; LimitNOFILE=65536 in a systemd unit; "
        "--ulimit nofile=65536 of docker and podman",
        "or close files that are not needed: ls -l /proc/PID/fd shows them",
    ],
    "files": [
        "raise the system's limit: sysctl -w fs.file-max=NUMBER; cat /proc/sys/fs/file-nr shows how many are open"
    ],
    "memory": [
        "give the process more memory: memory.max of its cgroup (MemoryMax= of systemd, --memory of docker and podman, "
        "resources.limits of Kubernetes)"
    ],
    "other": ["search for the errno in io_uring_setup(2), and report it: uringloop does not know it"],
}


def _allow_calls(place: Surroundings) -> list[str]:
    found = []
    if place.unit:  # its filter is the innermost
        found.append(
            f"systemctl edit {place.unit}: SystemCallFilter=@aio below [Service], if it has a SystemCallFilter= "
            f"already (systemctl show -p SystemCallFilter {place.unit})"
        )
    profile = (
        f"a seccomp profile that also allows {CALLS} (docs/containers.md makes it from your default one)"
    )
    if place.container in ("docker", "podman"):
        found.append(f"{place.container} run --security-opt seccomp=PROFILE.json, with {profile}")
    elif place.container in ("kubernetes", "containerd"):
        found.append(
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: PROFILE.json}} "
            f"in the pod, with {profile}; ctr: --seccomp --seccomp-profile PROFILE.json"
        )
    elif place.container == "systemd-nspawn":
        found.append("systemd-nspawn --system-call-filter=@aio, or SystemCallFilter=@aio in its .nspawn file")
    elif place.container == "lxc":
        found.append(f"allow {CALLS} in the file that lxc.seccomp.profile names")
    elif place.container:
        found.append(f"start the container with {profile}")
    return found or [f"allow {CALLS} in the seccomp filter of the program that started this one"]


def _if_killed(place: Surroundings, is_killed: bool) -> list[str]:
    if not is_killed:
        return []
    answer = (
        "SystemCallErrorNumber=EPERM" if place.unit else "an errno (EPERM, ENOSYS) as the filter's answer"
    )
    return [f"or let loops fall back to epoll: {answer}, or URINGLOOP_FDMON=epoll"]


def _set_sysctl(place: Surroundings) -> list[str]:
    where = ", on the host" if place.container else ""
    found = [
        f"sysctl -w kernel.io_uring_disabled=0{where}; permanently: that setting in /etc/sysctl.d/90-io-uring.conf"
    ]
    if place.disabled == "1":
        found.append(
            f"or only for a group: sysctl -w kernel.io_uring_group=GID{where}, and start the process in that group "
            "(SupplementaryGroups= of systemd, --group-add of docker and podman)"
        )
    return found


def _allow_by_module(place: Surroundings) -> list[str]:
    found = []
    if "SELinux" in place.security_modules:
        found.append(
            "SELinux: ausearch -m avc -ts recent shows what was denied, audit2allow makes a module that allows it "
            "(classes io_uring and anon_inode)"
        )
    if "AppArmor" in place.security_modules:
        found.append(
            "AppArmor: journalctl -k -g apparmor shows what was denied; add `io_uring,` to the profile"
        )
    return found or [
        "ask who set up this sandbox: neither a sysctl nor a seccomp filter of this process refuses it"
    ]


def _leave_emulator(place: Surroundings) -> list[str]:
    if place.emulator == "gVisor":
        return ["run it without gVisor: another --runtime of docker, another runtimeClassName of Kubernetes"]
    return ["run it on a machine of this architecture, or a virtual one: qemu-user passes no io_uring on"]


@dataclass(frozen=True)
class Advice:
    """What makes loops slower here, or will stop them under load."""

    kind: str
    text: str
    change: str


def feature_warnings(findings: list[Finding]) -> list[Advice]:
    """What the kernel lacks that makes io_uring fast."""
    return [
        Advice(
            "feature",
            f"no {one.feature.name.replace('`', '')}, so {one.feature.without.replace('`', '')}",
            f"it came with Linux {one.feature.since}",
        )
        for one in findings
        if one.feature.is_for_speed and one.is_available is False
    ]


def memlock_warnings(place: Surroundings) -> list[Advice]:
    """A limit of locked memory that few loops use up."""
    if place.memlock_bytes is None or place.ignores_memlock:
        return []
    n_loops = place.memlock_bytes // (RING_KIB * 1024)
    if n_loops >= FEW_LOOPS:
        return []
    text = f"RLIMIT_MEMLOCK ({place.memlock_bytes // 1024} KiB) has room for {n_loops} loops of this user"
    return [Advice("memlock", text, _CHANGES["memlock"][0])]


def nofile_warnings(place: Surroundings) -> list[Advice]:
    """A limit of open files that is low although it could be raised."""
    soft, hard = place.nofile, place.nofile_hard
    if soft is None or soft >= FEW_FILES or (hard is not None and hard <= soft):
        return []
    most = "unlimited" if hard is None else str(hard)
    text = (
        f"RLIMIT_NOFILE allows {soft} open files, one for each connection, and could be raised (to: {most})"
    )
    change = _CHANGES["nofile"][0].replace("65536", str(65536 if hard is None else min(hard, 65536)))
    return [Advice("nofile", text, change)]
