"""Builds the compiled part of the CPU backend; everything else about the package is in pyproject.toml.

It is one C file that knows nothing of Python, loaded with ctypes. So one wheel per platform serves all versions of
Python. Without a C compiler the package is installed without it, and works; NNBP_REQUIRE_NATIVE=1 makes that an error.
"""

import hashlib
import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCE = "backends/cpu/native/walker.c"


class BuildLibrary(build_ext):
    """Builds a plain shared library instead of a module of one version of Python."""

    def build_extension(self, ext):
        digest = hashlib.sha256(Path(SOURCE).read_bytes()).hexdigest()[:16]
        ext.define_macros = [("NNBP_SOURCE", digest)]
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = ["/std:c11", "/experimental:c11atomics", "/O2"]
        else:
            ext.extra_compile_args = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"]
        super().build_extension(ext)

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + (".dll" if os.name == "nt" else ".so")

    def get_export_symbols(self, ext):
        return ext.export_symbols

    def get_libraries(self, ext):
        return ext.libraries


class Wheel(bdist_wheel):
    """A wheel for all versions of Python: of this platform if the library was built, else of any."""

    def get_tag(self):
        built = any(Path(self.bdist_dir).glob("nnbp/backends/cpu/_native.*"))
        return "py3", "none", super().get_tag()[2] if built else "any"


setup(
    ext_modules=[
        Extension("nnbp.backends.cpu._native", [SOURCE], optional=os.environ.get("NNBP_REQUIRE_NATIVE") != "1")
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
