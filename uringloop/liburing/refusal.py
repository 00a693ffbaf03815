"""Why io_uring is refused here, in words."""

import errno

RING_KIB = 8  # locked memory of a loop's ring: a page of SQEs, and one of the rest


def explain(error: int, n_rings: int | None = None) -> str:
    """The likely cause of a refused io_uring_setup(2), and the remedy.

    Parameters:
        error: the errno, positive.
        n_rings: how many rings this process has, for ENOMEM.

    Returns: a sentence without a full stop.  Source: io_uring_setup(2), kernel.io_uring_disabled in the
    kernel's sysctl documentation.
    """
    if error == errno.EPERM:
        disabled = ""
        try:
            with open("/proc/sys/kernel/io_uring_disabled") as setting:
                disabled = setting.read().strip()
        except OSError:
            disabled = ""
        if disabled in ("1", "2"):
            return f"kernel.io_uring_disabled={disabled} forbids it; set it to 0 with sysctl"
        return "a seccomp filter forbids it, as container runtimes do by default; allow the io_uring_* system calls"
    if error == errno.ENOSYS:
        return "the kernel was built without io_uring, or a seccomp filter hides it"
    if error == errno.EMFILE:
        return "this process has no free file descriptor; raise RLIMIT_NOFILE"
    if error == errno.ENFILE:
        return "the system has no free file; raise fs.file-max"
    if error == errno.ENOMEM:
        import resource  # here, because few processes need it, and this error leaves descriptors to load it

        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        allowed = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit // 1024} KiB"
        here = "" if n_rings is None else f", and this process has {n_rings} of them"
        return (
            f"this user's locked memory is used up: RLIMIT_MEMLOCK is {allowed} for all processes of the user, "
            f"each loop takes {RING_KIB} KiB or more{here} (those closed a moment ago count, too); "
            "raise the limit (ulimit -l, LimitMEMLOCK= of systemd, --ulimit memlock= of containers), or close loops"
        )
    if error == errno.EINVAL:
        return "the kernel is too old; io_uring is used from Linux 5.19 on"
    return "io_uring_setup refused it"
