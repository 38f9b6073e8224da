# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# An overlay port that installs the source tree it lies in:
#   vcpkg install dropbp --overlay-ports=DROPBP/cmake/packaging/vcpkg

get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

vcpkg_check_features(OUT_FEATURE_OPTIONS feature_options
  INVERTED_FEATURES ops CMAKE_DISABLE_FIND_PACKAGE_Eigen3)

set(VCPKG_BUILD_TYPE release)  # headers only
vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS ${feature_options}
    -DDROPBP_BUILD_TESTS=OFF -DDROPBP_BUILD_EXAMPLES=OFF -DDROPBP_BUILD_BENCHMARKS=OFF
    -DDROPBP_INSTALL=ON -DDROPBP_BUILD_C=OFF)
vcpkg_cmake_install()
vcpkg_fixup_pkgconfig()
vcpkg_cmake_config_fixup(PACKAGE_NAME dropbp CONFIG_PATH share/cmake/dropbp)

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/share/doc")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
