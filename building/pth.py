"""uringloop.pth at the root of site-packages, in wheels and in editable installs."""

import os

from setuptools import Command
from setuptools.command.build import build


class BuildPth(Command):
    """A step of `build`, by setuptools' protocol for such steps (setuptools.command.build.SubCommand)."""

    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib = ""

    def finalize_options(self) -> None:
        self.build_lib = self.get_finalized_command("build").build_lib

    def run(self) -> None:
        # An editable wheel gets nothing of build_lib; where other files are installed to is its root.
        root = self.get_finalized_command("install").install_platlib if self.editable_mode else self.build_lib
        self.mkpath(root)
        self.copy_file("uringloop.pth", root)

    def get_source_files(self) -> list[str]:
        return ["uringloop.pth"]

    def get_outputs(self) -> list[str]:
        return [] if self.editable_mode else [os.path.join(self.build_lib, "uringloop.pth")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    sub_commands = [*build.sub_commands, ("build_pth", None)]
