"""What a process can find out about the place where it runs: container, filters, limits.

Hints only: none of them proves why io_uring is refused, `diagnosis` combines them with the kernel's answer.  Files are
read below `root`, so that tests can lay out any place.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass

from ..liburing.refusal import CAP_IPC_LOCK, disabled_by_sysctl, has_capability, read_text, status_field

GVISOR_VERSION = "#1 SMP Sun Jan 10 15:06:54 PST 2016"  # what gVisor's uname(2) answers, whatever its release

# Words in a path of cgroups or mounts, and what puts them there.
PATHS = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("containers/storage", "podman"),
    ("docker", "docker"),
    ("containerd", "containerd"),
    ("lxc", "lxc"),
)


@dataclass(frozen=True)
class Surroundings:
    """Where this process runs; sizes in bytes, None for no limit."""

    container: (
        str | None
    )  # docker, podman, kubernetes, containerd, lxc, systemd-nspawn, or what the runtime calls itself
    container_hint: str | None  # what it was recognised by
    unit: str | None  # the systemd service
    emulator: str | None  # "gVisor", "qemu-user": another kernel than the one below
    has_filter: bool  # a seccomp filter (of any content)
    security_modules: tuple[str, ...]  # "SELinux", "AppArmor": those that confine this process
    disabled: str  # kernel.io_uring_disabled if that forbids it, else empty
    is_compiled_in: bool | None  # whether the kernel below has io_uring; None: unknown
    release: str  # of the kernel
    memlock_bytes: int | None  # soft limit
    ignores_memlock: bool  # CAP_IPC_LOCK
    nofile: int | None  # soft limit
    nofile_hard: int | None


def read(root: str = "", environ: Mapping[str, str] = os.environ) -> Surroundings:
    """Look around.  Raises nothing; root: a folder that stands for `/`."""
    container, hint = _container(root, environ)
    proc = f"{root}/proc"
    release = os.uname().release
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Surroundings(
        container=container,
        container_hint=hint,
        unit=_unit(proc, environ),
        emulator=_emulator(proc),
        has_filter=status_field("Seccomp", proc) == "2",
        security_modules=_security_modules(root),
        disabled=disabled_by_sysctl(proc),
        is_compiled_in=_is_compiled_in(root, release),
        release=release,
        memlock_bytes=_limit(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]),
        ignores_memlock=has_capability(CAP_IPC_LOCK, proc),
        nofile=_limit(limits[0]),
        nofile_hard=_limit(limits[1]),
    )


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _container(root: str, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The runtime, and what it was recognised by; the most specific hint first."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes", "KUBERNETES_SERVICE_HOST in the environment"
    if os.path.exists(f"{root}/run/.containerenv"):
        return "podman", "/run/.containerenv"
    if os.path.exists(f"{root}/.dockerenv"):
        return "docker", "/.dockerenv"
    named = read_text(f"{root}/run/systemd/container")  # systemd as pid 1 writes it
    if named:
        return named, "/run/systemd/container"
    # pid 1 may be another user's; its variable is often inherited
    for text, where in (
        (read_text(f"{root}/proc/1/environ"), "container= in the environment of pid 1"),
        (f"container={environ.get('container', '')}", "container= in the environment"),
    ):
        found = re.search(r"(?:^|\0)container=([^\0]+)", text)
        if found:
            return found[1], where
    for path in ("/proc/1/cgroup", "/proc/self/cgroup"):
        text = read_text(f"{root}{path}")
        for word, runtime in PATHS:
            if word in text:
                return runtime, path
    for line in read_text(f"{root}/proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] == "/":
            for word, runtime in PATHS:
                if word in line:
                    return runtime, "/proc/self/mountinfo"
    return None, None


def _unit(proc: str, environ: Mapping[str, str]) -> str | None:
    """The systemd service that started this process."""
    if "INVOCATION_ID" not in environ:  # also in sessions: then the cgroup is a scope
        return None
    for line in read_text(f"{proc}/self/cgroup").splitlines():
        last = line.rsplit("/", 1)[-1]
        if last.endswith(".service"):
            return last
    return None


def _emulator(proc: str) -> str | None:
    if GVISOR_VERSION in read_text(f"{proc}/version") or "gvisor" in os.uname().release:
        return "gVisor"
    # qemu-user answers reads of /proc/self/maps itself, and forwards those of this name
    for line in read_text(f"{proc}/thread-self/maps").splitlines():
        if re.search(r"/qemu-[\w-]+$", line):
            return "qemu-user"
    return None


def _security_modules(root: str) -> tuple[str, ...]:
    """Those whose policy confines this process; one that is loaded and leaves it alone is none."""
    found = []
    if read_text(f"{root}/sys/fs/selinux/enforce") == "1":
        found.append("SELinux")
    label = read_text(f"{root}/proc/self/attr/apparmor/current")
    if label and not label.startswith("unconfined"):
        found.append("AppArmor")
    return tuple(found)


def _is_compiled_in(root: str, release: str) -> bool | None:
    """The sysctl exists since Linux 6.6 where io_uring does; otherwise the kernel's configuration, if it is here."""
    if os.path.exists(f"{root}/proc/sys/kernel/io_uring_disabled"):
        return True
    text = read_text(f"{root}/boot/config-{release}")
    if not text:
        return None
    return re.search(r"^CONFIG_IO_URING=y", text, re.MULTILINE) is not None
