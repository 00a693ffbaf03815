"""What the doctor finds out about a place, from files laid out for the test."""

import os

import pytest

from uringloop.command import surroundings
from uringloop.liburing import refusal

STATUS = "Name:\tpython\nSeccomp:\t{seccomp}\nCapEff:\t{capabilities:016x}\n"
NO_NAMESPACE = "         0          0 4294967295\n"


@pytest.fixture
def lay_out(tmp_path):
    """A function that writes {path: text} below a folder, and returns that."""

    def write(files):
        for path, text in files.items():
            full = tmp_path / path.lstrip("/")
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_text(text)
        return str(tmp_path)

    return write


def read(root, environ=None):
    return surroundings.read(root, environ or {})


def status(seccomp=0, capabilities=0, uid_map=NO_NAMESPACE):
    return {
        "/proc/self/status": STATUS.format(seccomp=seccomp, capabilities=capabilities),
        "/proc/self/uid_map": uid_map,
    }


def test_an_empty_place_has_nothing(lay_out):
    found = read(lay_out({}))
    assert (
        found.container
        is found.container_hint
        is found.unit
        is found.emulator
        is found.is_compiled_in
        is None
    )
    assert (found.has_filter, found.security_modules, found.disabled, found.ignores_memlock) == (
        False,
        (),
        "",
        False,
    )
    assert found.release == os.uname().release


@pytest.mark.parametrize(
    ("files", "environ", "container"),
    [
        ({"/.dockerenv": ""}, {}, "docker"),
        ({"/run/.containerenv": ""}, {}, "podman"),
        ({"/.dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "kubernetes"}, "kubernetes"),
        ({"/run/systemd/container": "systemd-nspawn\n"}, {}, "systemd-nspawn"),
        ({"/proc/1/environ": "PATH=/bin\0container=lxc\0HOME=/"}, {}, "lxc"),
        ({}, {"container": "oci"}, "oci"),
        ({"/proc/1/cgroup": "12:cpu:/kubepods/burstable/pod1\n"}, {}, "kubernetes"),
        ({"/proc/self/cgroup": "0::/system.slice/docker-0123.scope\n"}, {}, "docker"),
        ({"/proc/self/cgroup": "0::/machine.slice/libpod-0123.scope\n"}, {}, "podman"),
        (
            {"/proc/self/mountinfo": "1 2 0:3 / / rw - overlay o lowerdir=/var/lib/docker/overlay2/x\n"},
            {},
            "docker",
        ),
        (
            {"/proc/self/mountinfo": "1 2 0:3 / / rw - overlay o lowerdir=/var/lib/containerd/x\n"},
            {},
            "containerd",
        ),
        (
            {"/proc/self/mountinfo": "1 2 0:3 / /mnt rw - overlay o lowerdir=/var/lib/docker/overlay2/x\n"},
            {},
            None,
        ),
        ({"/proc/1/environ": "othercontainer=lxc\0", "/proc/1/cgroup": "0::/init.scope\n"}, {}, None),
    ],
)
def test_a_container_is_recognised(lay_out, files, environ, container):
    found = read(lay_out(files), environ)
    assert found.container == container
    assert (found.container_hint is None) == (container is None)


def test_a_systemd_service_is_named(lay_out):
    root = lay_out({"/proc/self/cgroup": "0::/system.slice/web.service\n"})
    assert read(root, {"INVOCATION_ID": "0123"}).unit == "web.service"
    assert read(root).unit is None


def test_a_session_is_no_service(lay_out):
    root = lay_out({"/proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n"})
    assert read(root, {"INVOCATION_ID": "0123"}).unit is None


def test_a_filter_is_seen(lay_out):
    assert read(lay_out(status(seccomp=2))).has_filter


@pytest.mark.parametrize(
    ("files", "emulator"),
    [
        ({"/proc/version": "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n"}, "gVisor"),
        (
            {"/proc/thread-self/maps": "7f00-7f10 r--p 0 fe:00 1   /usr/bin/qemu-aarch64-static\n"},
            "qemu-user",
        ),
        ({"/proc/thread-self/maps": "7f00-7f10 r--p 0 fe:00 1   /usr/lib/qemu-tools/lib.so\n"}, None),
    ],
)
def test_another_kernel_than_linux_is_recognised(lay_out, files, emulator):
    assert read(lay_out(files)).emulator == emulator


def test_security_modules_count_where_they_confine(lay_out):
    files = {"/sys/fs/selinux/enforce": "1", "/proc/self/attr/apparmor/current": "docker-default (enforce)\n"}
    assert read(lay_out(files)).security_modules == ("SELinux", "AppArmor")
    files = {"/sys/fs/selinux/enforce": "0", "/proc/self/attr/apparmor/current": "unconfined\n"}
    assert read(lay_out(files)).security_modules == ()


@pytest.mark.parametrize(
    ("value", "group", "capabilities", "uid_map", "disabled"),
    [
        ("0", "-1", 0, NO_NAMESPACE, ""),
        ("1", "-1", 0, NO_NAMESPACE, "1"),
        ("1", str(os.getegid()), 0, NO_NAMESPACE, ""),
        ("1", "-1", 1 << refusal.CAP_SYS_ADMIN, NO_NAMESPACE, ""),
        ("1", "-1", 1 << refusal.CAP_SYS_ADMIN, "0 1000 1\n", "1"),
        ("2", str(os.getegid()), 1 << refusal.CAP_SYS_ADMIN, NO_NAMESPACE, "2"),
    ],
)
def test_the_sysctl_forbids_some_or_all(lay_out, value, group, capabilities, uid_map, disabled):
    files = status(capabilities=capabilities, uid_map=uid_map)
    files["/proc/sys/kernel/io_uring_disabled"] = value
    files["/proc/sys/kernel/io_uring_group"] = group
    found = read(lay_out(files))
    assert found.disabled == disabled
    assert found.is_compiled_in is True


def test_the_kernels_configuration_is_read_where_it_is(lay_out):
    path = f"/boot/config-{os.uname().release}"
    assert read(lay_out({path: "CONFIG_A=y\nCONFIG_IO_URING=y\n"})).is_compiled_in is True
    assert read(lay_out({path: "# CONFIG_IO_URING is not set\n"})).is_compiled_in is False


def test_locked_memory_is_unlimited_with_the_capability(lay_out):
    assert read(lay_out(status(capabilities=1 << refusal.CAP_IPC_LOCK))).ignores_memlock
    assert not read(
        lay_out(status(capabilities=1 << refusal.CAP_IPC_LOCK, uid_map="0 1000 1\n"))
    ).ignores_memlock
