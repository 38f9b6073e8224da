// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The main function of fuzz targets without libFuzzer: runs every file of the folders given once,
// and every file at half its length.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz.hpp"

namespace {

void run(const std::string& bytes) {
  // A copy of its exact size, so that AddressSanitizer sees reads behind the end.
  const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t inputs = 0;
  for (int i = 1; i < argc; ++i) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(argv[i]))
      if (entry.is_regular_file()) files.push_back(entry.path());
    std::ranges::sort(files);
    for (const auto& file : files) {
      std::ifstream stream(file, std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(stream),
                              std::istreambuf_iterator<char>()};
      std::fprintf(stderr, "%s\n", file.string().c_str());
      run(bytes);
      run(bytes.substr(0, bytes.size() / 2));
      inputs += 2;
    }
  }
  std::printf("%zu inputs, 0 findings\n", inputs);
  return inputs == 0 ? 1 : 0;  // a folder that is not there throws, an empty one is a fault
}
