// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs the test cases on a CUDA device. Without a device it prints the reason and exits with 77,
// which ctest shows as skipped; with DROPBP_REQUIRE_GPU=1 it exits with 1.
#define CATCH_CONFIG_RUNNER
#include "support/catch.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "dropbp/backend/cuda/device.hpp"

int main(int argc, char** argv) {
  const std::string missing = dropbp::device_runtime<dropbp::Cuda>::unavailable_reason();
  if (!missing.empty()) {
    const char* const required = std::getenv("DROPBP_REQUIRE_GPU");
    const bool fails = required != nullptr && std::string(required) == "1";
    std::printf("%s: %s\n", fails ? "failed, DROPBP_REQUIRE_GPU is 1" : "skipped", missing.c_str());
    return fails ? 1 : 77;
  }
  const int result = Catch::Session().run(argc, argv);
  // Before version 3 Catch2's exit code is the number of listed cases. It is no failure, and 77
  // cases are not a skip.
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]).rfind("--list-", 0) == 0) return 0;
  return result;
}
