// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The texts of saved states: what is accepted is written as the same values. The first byte chooses
// the kind.
#include "dropbp/state_text.hpp"

#include "dropbp/state.hpp"
#include "fuzz.hpp"

namespace {

template <class Read>
void check(std::string_view text, Read read) {
  decltype(read(text)) state;
  if (!fuzz::accepts<std::invalid_argument>([&] { state = read(text); })) return;
  const std::string written = to_text(state);
  // Not ==: a NaN is not equal to itself.
  fuzz::require(to_text(read(written)) == written, "a state differs after it was written");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::size_t choice = input.below(3);
  if (choice == 0)
    check(input.rest(),
          [](std::string_view text) { return dropbp::handler_state_from_text(text); });
  if (choice == 1)
    check(input.rest(),
          [](std::string_view text) { return dropbp::running_state_from_text(text); });
  if (choice == 2)
    check(input.rest(), [](std::string_view text) { return dropbp::ranges_state_from_text(text); });
  return 0;
}
