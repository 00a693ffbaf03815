"""The CPUs that are emulated, in the words of QEMU, Debian and Linux, and the names of kernels for them."""

from __future__ import annotations

import argparse
import platform
from typing import NamedTuple


class Architecture(NamedTuple):
    name: str  # Debian's word
    machine: str  # the kernel's word, as `uname -m` prints it
    qemu: tuple[str, ...]  # the program, and its arguments for the machine
    report_port: tuple[str, str]  # QEMU's argument for the second serial port
    console: str  # the kernel's names of the serial ports
    report: str

    @property
    def is_foreign(self) -> bool:
        """This machine cannot run its programs, and compiles for it with another compiler."""
        return self.machine != platform.machine()


ARCHITECTURES = {
    one.name: one
    for one in [
        Architecture(
            name="amd64",
            machine="x86_64",
            qemu=("qemu-system-x86_64", "-cpu", "max"),
            report_port=("-serial", "chardev:report"),
            console="ttyS0",
            report="ttyS1",
        ),
        Architecture(
            name="arm64",
            machine="aarch64",
            # The CPU has the atomic instructions of ARMv8.1, but no pointer authentication, which is slow to emulate.
            qemu=("qemu-system-aarch64", "-machine", "virt", "-cpu", "neoverse-n1"),
            # The machine has one serial port; one on the PCI bus is the second.
            report_port=("-device", "pci-serial,chardev=report"),
            console="ttyAMA0",
            report="ttyS0",
        ),
    ]
}
DEFAULT = "amd64"


class Kernel(NamedTuple):
    """What --kernels names, such as "6.12", "6.12-arm64" or "newest-arm64"."""

    series: str
    architecture: Architecture

    @classmethod
    def of(cls, text: str) -> Kernel:
        """Raises: ArgumentTypeError for an unknown architecture."""
        series, _, name = text.partition("-")
        if (name or DEFAULT) not in ARCHITECTURES:
            raise argparse.ArgumentTypeError(f"no architecture {name}: {', '.join(ARCHITECTURES)}")
        return cls(series, ARCHITECTURES[name or DEFAULT])

    def __str__(self) -> str:
        is_default = self.architecture.name == DEFAULT
        return self.series if is_default else f"{self.series}-{self.architecture.name}"
