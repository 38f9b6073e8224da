# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""pip install examples/pytorch: builds libdropbp.so with CMake and installs it beside dropbp.py."""

import pathlib
import re
import shutil
import subprocess

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

checkout = pathlib.Path(__file__).resolve().parents[2]
header = (checkout / "include" / "dropbp" / "version.hpp").read_text()
version = ".".join(re.findall(r"#define DROPBP_VERSION_[A-Z]+ (\d+)", header))


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        build = pathlib.Path(self.get_finalized_command("build").build_temp).resolve()
        without = [f"-DDROPBP_BUILD_{what}=OFF" for what in ("TESTS", "EXAMPLES", "BENCHMARKS")]
        configure = ["cmake", "-S", checkout, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *without]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", build, "--target", "dropbp_c_shared"], check=True)
        shutil.copy(build / "libdropbp.so", self.build_lib)


class PlatformDistribution(Distribution):
    def has_ext_modules(self):
        return True  # the package holds a library: it is of one platform


setup(
    name="dropbp",
    version=version,
    description="DropBP for PyTorch: skip the backward pass of residual branches",
    license="MIT",
    py_modules=["dropbp"],
    python_requires=">=3.9",
    install_requires=["torch"],
    cmdclass={"build_py": BuildWithLibrary},
    distclass=PlatformDistribution,
)
