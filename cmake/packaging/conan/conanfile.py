# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Conan 2 recipe that packages the source tree it lies in: conan create cmake/packaging/conan"""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

required_conan_version = ">=2.0"


class DropbpConan(ConanFile):
    name = "dropbp"
    description = "Dropping the backward pass of residual branches, for any C++ trainer"
    license = "MIT"
    topics = ("machine-learning", "training", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"with_ops": [True, False]}
    default_options = {"with_ops": False}

    def set_version(self):
        header = load(self, os.path.join(self._checkout, "include", "dropbp", "version.hpp"))
        parts = [
            re.search(rf"#define DROPBP_VERSION_{part} (\d+)", header)
            for part in ("MAJOR", "MINOR", "PATCH")
        ]
        self.version = ".".join(part.group(1) for part in parts)

    @property
    def _checkout(self):
        return os.path.join(self.recipe_folder, "..", "..", "..")

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "cmake/*.cmake", "cmake/*.in"):
            copy(self, pattern, self._checkout, self.export_sources_folder)

    def requirements(self):
        if self.options.with_ops:
            self.requires("eigen/[>=3.4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def package_id(self):
        self.info.settings.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for what in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.cache_variables[f"DROPBP_BUILD_{what}"] = False
        toolchain.cache_variables["DROPBP_INSTALL"] = True
        toolchain.cache_variables["DROPBP_BUILD_C"] = False  # headers only
        # The package description below takes the place of the installed CMake files, and of
        # Eigen's.
        toolchain.cache_variables["CMAKE_DISABLE_FIND_PACKAGE_Eigen3"] = True
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        rmdir(self, os.path.join(self.package_folder, "share"))
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "dropbp")
        core = self.cpp_info.components["dropbp"]
        core.set_property("cmake_target_name", "dropbp::dropbp")
        core.bindirs = core.libdirs = []
        if self.options.with_ops:
            ops = self.cpp_info.components["ops"]
            ops.set_property("cmake_target_name", "dropbp::ops")
            ops.requires = ["dropbp", "eigen::eigen"]
            ops.bindirs = ops.libdirs = []
