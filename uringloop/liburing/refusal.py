"""Why io_uring is refused here, in words."""

import errno
import os

RING_KIB = 8  # locked memory of a loop's ring: a page of SQEs, and one of the rest

CAP_IPC_LOCK = 14
CAP_SYS_ADMIN = 21
ALL_IDS = ("0", "0", "4294967295")  # the uid_map of a process that is in no user namespace


def explain(error: int, n_rings: int | None = None) -> str:
    """The likely cause of a refused io_uring_setup(2), and the remedy.

    Parameters:
        error: the errno, positive.
        n_rings: how many rings this process has, for ENOMEM.

    Returns: a sentence without a full stop.  Source: io_uring_setup(2), kernel.io_uring_disabled in the
    kernel's sysctl documentation.
    """
    if error == errno.EPERM:
        disabled = disabled_by_sysctl()
        if disabled == "1":
            return (
                "kernel.io_uring_disabled=1 forbids it to processes outside of kernel.io_uring_group; "
                "set it to 0 with sysctl, or join the group"
            )
        if disabled == "2":
            return "kernel.io_uring_disabled=2 forbids it; set it to 0 with sysctl"
        if status_field("Seccomp") == "0":
            return "no seccomp filter of this process and no sysctl forbids it: a security module or a sandbox does"
        return "a seccomp filter forbids it, as container runtimes do by default; allow the io_uring_* system calls"
    if error == errno.EACCES:
        return "a security module (SELinux, AppArmor) or a seccomp filter forbids it"
    if error == errno.ENOSYS:
        return "the kernel was built without io_uring, or a seccomp filter hides it"
    if error == errno.EMFILE:
        return "this process has no free file descriptor; raise RLIMIT_NOFILE"
    if error == errno.ENFILE:
        return "the system has no free file; raise fs.file-max"
    if error == errno.ENOMEM:
        import resource  # here, because few processes need it, and this error leaves descriptors to load it

        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        if limit == resource.RLIM_INFINITY or has_capability(CAP_IPC_LOCK):
            return (
                "the system or this cgroup has no memory left for a ring; locked memory is not limited here"
            )
        here = "" if n_rings is None else f", and this process has {n_rings} of them"
        return (
            f"this user's locked memory is used up: RLIMIT_MEMLOCK is {limit // 1024} KiB for all processes of the "
            f"user, each loop takes {RING_KIB} KiB or more{here} (those closed a moment ago count, too); "
            "raise the limit (ulimit -l, LimitMEMLOCK= of systemd, --ulimit memlock= of containers), or close loops"
        )
    if error == errno.EINVAL:
        return "the kernel is too old; io_uring is used from Linux 5.19 on"
    return "io_uring_setup refused it"


def read_text(path: str) -> str:
    """A file's text, stripped; empty where it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def status_field(name: str, proc: str = "/proc") -> str:
    """A line of /proc/self/status; empty where there is none."""
    for line in read_text(f"{proc}/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def has_capability(number: int, proc: str = "/proc") -> bool:
    """Whether the kernel's capable() is true; that of a user namespace is not what the kernel asks about."""
    mask = status_field("CapEff", proc)
    in_namespace = tuple(read_text(f"{proc}/self/uid_map").split()) not in ((), ALL_IDS)
    return bool(mask) and not in_namespace and bool(int(mask, 16) >> number & 1)


def disabled_by_sysctl(proc: str = "/proc") -> str:
    """The value of kernel.io_uring_disabled (since Linux 6.6) if it forbids this process io_uring, else empty."""
    value = read_text(f"{proc}/sys/kernel/io_uring_disabled")
    if value == "1":
        group = read_text(f"{proc}/sys/kernel/io_uring_group")
        is_member = group.isdecimal() and int(group) in (os.getegid(), *os.getgroups())
        return "" if is_member or has_capability(CAP_SYS_ADMIN, proc) else value
    return value if value == "2" else ""
