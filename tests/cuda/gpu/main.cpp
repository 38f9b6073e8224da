// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs the test cases where there is a CUDA device; elsewhere says why not and exits with 77, which
// ctest shows as skipped, or with 1 where DROPBP_REQUIRE_GPU=1 asks for a device.
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
  // Catch2 before 3 says with its exit code how many cases it has listed: that is no failure, and
  // 77 of them no skip.
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]).rfind("--list-", 0) == 0) return 0;
  return result;
}
