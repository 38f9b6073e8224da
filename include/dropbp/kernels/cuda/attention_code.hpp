// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which code has computed attention on a device, and why: for the report of a run. A library may
// refuse a shape, or need more memory than is free; then other code computes it, at another speed.
#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "dropbp/kernels/cuda/attention_tiles.hpp"

DROPBP_NAMESPACE_BEGIN

/// What an external library did with a call.
struct LibraryAttention {
  bool ran = false;  ///< false: it did nothing
  std::string how;   ///< version, engine, workspace and parts; or why it did not run
};

namespace ops {

/// The code that computes attention: an external library if it supports the shape
/// (device_attention), or the kernels of this folder.
enum class AttentionCode : std::uint8_t { library, own };

/// Which code has computed attention of one shape and scalar type.
struct AttentionNote {
  cuda::AttentionShape shape;  ///< of the calls
  std::string scalar;          ///< "float", "bfloat16" or "half"
  bool backward;               ///< the pass
  AttentionCode code;          ///< that has run
  std::string how;             ///< see LibraryAttention

  /// One line.
  std::string text() const {
    const auto number = [](cuda::Index n) { return std::to_string(n); };
    return "attention in " + scalar + ", " + (backward ? "backward" : "forward") + " pass, " +
           number(shape.batch) + " x " + number(shape.sequence) + " tokens, " +
           number(shape.heads) + " heads of " + number(shape.head_size) +
           (shape.kv_heads == shape.heads ? "" : ", " + number(shape.kv_heads) + " kv heads") +
           ": " + (code == AttentionCode::own ? "own kernels, because " : "") + how;
  }
};

namespace detail {

template <class T>
inline constexpr const char* scalar_name = "float";
template <>
inline constexpr const char* scalar_name<BFloat16> = "bfloat16";
template <>
inline constexpr const char* scalar_name<Half> = "half";

template <class Backend>
class AttentionLog {
 public:
  static AttentionLog& instance() {
    static AttentionLog log;
    return log;
  }

  void add(const cuda::AttentionShape& shape, const std::string& scalar, bool backward,
           const LibraryAttention& library) {
    const std::lock_guard lock(mutex_);
    if (known_
            .emplace(backward, scalar, shape.batch, shape.sequence, shape.heads, shape.kv_heads,
                     shape.head_size, library.ran, library.how)
            .second)
      notes_.push_back({shape, scalar, backward,
                        library.ran ? AttentionCode::library : AttentionCode::own, library.how});
  }
  std::vector<AttentionNote> notes_from(std::size_t first) const {
    const std::lock_guard lock(mutex_);
    if (first >= notes_.size()) return {};
    return {notes_.begin() + static_cast<std::ptrdiff_t>(first), notes_.end()};
  }

 private:
  using Index = cuda::Index;
  mutable std::mutex mutex_;
  std::set<std::tuple<bool, std::string, Index, Index, Index, Index, Index, bool, std::string>>
      known_;
  std::vector<AttentionNote> notes_;
};

}  // namespace detail

/// What has computed attention on this backend in this program, without the first `first` notes:
/// one note for each shape, scalar type, pass and way, in the order of their first calls. A shape
/// has a second note for a pass if the way changes, for example because the memory got less.
template <class Backend>
std::vector<AttentionNote> attention_notes(std::size_t first = 0) {
  return detail::AttentionLog<Backend>::instance().notes_from(first);
}

}  // namespace ops
DROPBP_NAMESPACE_END
