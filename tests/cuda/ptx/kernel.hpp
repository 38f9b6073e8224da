// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels of PTX, decoded for the interpreter.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

struct Warp;
struct Instruction;

/// Executes an instruction for the lanes of a mask.
using Handler = void (*)(Warp& warp, const Instruction& instruction, std::uint32_t lanes);

/// What happens after an instruction, or before it.
enum class Flow : std::uint8_t {
  next,      ///< the next instruction follows
  together,  ///< so, but all lanes of the warp execute it together
  barrier,   ///< so, when all threads of the block are here
  branch,    ///< to `target` if the guard holds
  leave      ///< the thread ends
};

/// One instruction. Operands are arrays of 32 elements in the registers of a warp, `at` their first
/// bytes; a predicate is one word with a bit for each lane.
struct Instruction {
  Handler run = nullptr;
  Flow flow = Flow::next;
  bool has_guard = false, guard_is_negated = false;
  std::uint8_t access_bytes = 0;    ///< of an element in memory
  std::uint8_t register_bytes = 0;  ///< of the register it goes to or comes from
  std::uint8_t elements = 1;        ///< of one access
  bool is_signed = false;
  bool is_wide = false;  ///< the address has 64 bits
  std::uint32_t guard = 0;
  std::array<std::uint32_t, 14> at = {};
  std::int64_t offset = 0;  ///< added to an address; the number of an immediate
  std::uint32_t target = 0;
  std::uint32_t line = 0;  ///< of the kernel's text
};

/// An operation, and the sizes of its operands: bytes of an element, or one of the constants.
struct Operation {
  static constexpr std::uint8_t predicate = 100;  ///< a predicate
  static constexpr std::uint8_t immediate = 101;  ///< a number that goes to Instruction::offset

  Handler run = nullptr;
  Flow flow = Flow::next;
  std::vector<std::uint8_t> operands;
};

/// All operations but loads, stores, branches and moves, by their whole names, such as "add.s64".
const std::map<std::string, Operation, std::less<>>& operations();

/// The handlers of loads and stores for the state spaces "global", "shared" and "param". Null for
/// others.
Handler load_from(std::string_view space);
Handler store_to(std::string_view space);

/// Where shared memory begins; addresses below are in no memory.
inline constexpr std::uint32_t shared_base = 1024;

/// A parameter's place in a kernel's parameters.
struct Parameter {
  std::size_t offset, bytes;
};

/// The special registers, in the order of Kernel::specials.
inline constexpr std::array<std::string_view, 10> special_names = {
    "%tid.x",    "%ctaid.x",  "%ctaid.y", "%ctaid.z", "%nctaid.x",
    "%nctaid.y", "%nctaid.z", "%ntid.x",  "%laneid",  "%lanemask_lt"};

/// A decoded kernel.
struct Kernel {
  /// Decodes an .entry with its parameters and body. Throws std::runtime_error that names an
  /// unknown operation, or quotes the line that it does not understand.
  Kernel(std::string name, std::string text);

  std::string name;                   ///< as the compiler mangled it
  std::vector<std::string> lines;     ///< of the text
  std::vector<Instruction> code;      ///< the last one leaves
  std::vector<Parameter> parameters;  ///< in the order of the arguments
  std::size_t parameter_bytes = 0;    ///< of all of them
  std::vector<std::byte> registers;   ///< of a warp at its beginning: constants, then zeros
  std::array<std::uint32_t, special_names.size()> specials = {};  ///< places of special registers
};

}  // namespace ptx
