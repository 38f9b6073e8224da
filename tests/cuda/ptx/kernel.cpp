// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "cuda/ptx/kernel.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <stdexcept>

namespace ptx {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\r").find(text.front()) != text.npos)
    text.remove_prefix(1);
  while (!text.empty() && std::string_view(" \t\r").find(text.back()) != text.npos)
    text.remove_suffix(1);
  return text;
}

// The parts of a list between commas, those in braces or brackets whole.
std::vector<std::string_view> parts_of(std::string_view list) {
  std::vector<std::string_view> parts;
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= list.size(); ++i) {
    if (i < list.size() && (list[i] == '{' || list[i] == '[')) ++depth;
    if (i < list.size() && (list[i] == '}' || list[i] == ']')) --depth;
    if (i < list.size() && (list[i] != ',' || depth > 0)) continue;
    if (const auto part = trimmed(list.substr(begin, i - begin)); !part.empty())
      parts.push_back(part);
    begin = i + 1;
  }
  return parts;
}

// What stands between the first and the last character.
std::string_view inner(std::string_view text) { return text.substr(1, text.size() - 2); }

std::optional<std::int64_t> number(std::string_view text) {
  if (text.size() == 10 && (text.starts_with("0f") || text.starts_with("0F"))) {
    std::uint32_t bits = 0;
    std::from_chars(text.data() + 2, text.data() + text.size(), bits, 16);
    return bits;
  }
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const bool hex = text.starts_with("0x");
  if (hex) text.remove_prefix(2);
  if (text.ends_with('U')) text.remove_suffix(1);
  std::uint64_t value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return static_cast<std::int64_t>(negative ? 0 - value : value);
}

std::int64_t required_number(std::string_view text) {
  if (const auto value = number(text)) return *value;
  throw std::runtime_error(std::string(text) + " is not a number");
}

// Bytes of "u32", "f16x2" and so on; Operation::predicate for "pred"; 0 if it is no type.
std::uint8_t type_bytes(std::string_view type) {
  if (type == "pred") return Operation::predicate;
  if (type == "bf16") return 2;
  if (type.size() < 2 || std::string_view("usfb").find(type[0]) == type.npos) return 0;
  const auto bits = number(type.substr(1));
  return bits ? static_cast<std::uint8_t>(*bits / 8) : std::uint8_t{0};
}

std::vector<std::string_view> split_at_points(std::string_view opcode) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= opcode.size();) {
    const std::size_t end = std::min(opcode.find('.', begin), opcode.size());
    parts.push_back(opcode.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::size_t words_of(std::uint8_t size) {
  return size == Operation::predicate ? sizeof(std::uint32_t) : std::size_t{32} * size;
}

class Decoder {
 public:
  explicit Decoder(Kernel& kernel) : kernel_(kernel) {}

  void decode() {
    for (std::size_t i = 0; i < special_names.size(); ++i) {
      kernel_.specials[i] = reserve(4);
      registers_.emplace(special_names[i], Register{kernel_.specials[i], 4});
    }
    for (line_ = 0; line_ < kernel_.lines.size(); ++line_) {
      std::string_view line = kernel_.lines[line_];
      line = trimmed(line.substr(0, line.find("//")));
      if (line.empty()) continue;
      try {
        decode(line);
      } catch (const std::runtime_error& error) {
        throw std::runtime_error("kernel " + kernel_.name + ", line " + std::to_string(line_ + 1) +
                                 " `" + std::string(line) + "`: " + error.what());
      }
    }
    kernel_.code.push_back({.flow = Flow::leave, .line = static_cast<std::uint32_t>(line_ - 1)});
    for (const auto& [at, label] : branches_) {
      const auto found = labels_.find(label);
      if (found == labels_.end())
        throw std::runtime_error("kernel " + kernel_.name + ": there is no label " +
                                 std::string(label));
      kernel_.code[at].target = found->second;
    }
  }

 private:
  struct Register {
    std::uint32_t at;
    std::uint8_t size;
  };

  void decode(std::string_view line) {
    if (line.size() > 1 && line.front() == '{' && line.back() == '}') return decode_block(line);
    if (line.starts_with(".param")) return parameter(line);
    if (line.starts_with(".reg")) return declare(line);
    if (line.front() == '.' || line == ")" || line == "{" || line == "}") {
      for (const std::string_view known : {".visible", ".maxntid", ".minnctapersm", ".pragma"})
        if (line.starts_with(known)) return;
      if (line.front() == '.') throw std::runtime_error("this directive is not known");
      return;
    }
    if (line.ends_with(':')) {
      labels_.emplace(line.substr(0, line.size() - 1),
                      static_cast<std::uint32_t>(kernel_.code.size()));
      return;
    }
    if (!line.ends_with(';')) throw std::runtime_error("an instruction ends with ;");
    instruction(trimmed(line.substr(0, line.size() - 1)));
  }

  // { .reg .b16 tmp; mov.b32 {tmp, a}, b; }
  void decode_block(std::string_view line) {
    line = trimmed(inner(line));
    while (!line.empty()) {
      const std::string_view statement =
          line.substr(0, std::min(line.find(';'), line.size() - 1) + 1);
      decode(statement);
      line = trimmed(line.substr(statement.size()));
    }
  }

  // .param .align 8 .b8 NAME[32], or .param .u64 NAME, or .param .u64 .ptr .align 1 NAME, where
  // the alignment is that of what the pointer points to.
  void parameter(std::string_view line) {
    if (line.ends_with(',')) line.remove_suffix(1);
    std::size_t align = 0, bytes = 0;
    while (line.front() == '.') {
      const std::string_view word = line.substr(1, line.find(' ') - 1);
      line = trimmed(line.substr(word.size() + 1));
      if (word == "align") {
        const std::string_view value = line.substr(0, line.find(' '));
        if (bytes == 0) align = static_cast<std::size_t>(required_number(value));
        line = trimmed(line.substr(value.size()));
      } else if (type_bytes(word) != 0) {
        bytes = type_bytes(word);
      }
    }
    if (align == 0) align = bytes;
    if (const auto bracket = line.find('['); bracket != line.npos) {
      bytes = static_cast<std::size_t>(required_number(inner(line.substr(bracket))));
      line = line.substr(0, bracket);
    }
    kernel_.parameter_bytes = (kernel_.parameter_bytes + align - 1) / align * align;
    symbols_.emplace(line, static_cast<std::int64_t>(kernel_.parameter_bytes));
    kernel_.parameters.push_back({kernel_.parameter_bytes, bytes});
    kernel_.parameter_bytes += bytes;
  }

  // .reg .f32 %f<935>; or .reg .b32 a, b;
  void declare(std::string_view line) {
    line = trimmed(line.substr(4, line.size() - 5));
    const std::string_view type = line.substr(1, line.find_first_of(" \t") - 1);
    const std::uint8_t size = type_bytes(type);
    if (size == 0) throw std::runtime_error("this type of register is not known");
    for (std::string_view name : parts_of(line.substr(type.size() + 1))) {
      std::int64_t count = 0;
      if (const auto bracket = name.find('<'); bracket != name.npos) {
        count = required_number(inner(name.substr(bracket)));
        name = name.substr(0, bracket);
        for (std::int64_t i = 0; i < count; ++i)
          registers_[std::string(name) + std::to_string(i)] = {reserve(size), size};
      } else {
        registers_[std::string(name)] = {reserve(size), size};
      }
    }
  }

  void instruction(std::string_view text) {
    Instruction result;
    result.line = static_cast<std::uint32_t>(line_);
    if (text.front() == '@') {
      const std::string_view word = text.substr(1, text.find_first_of(" \t") - 1);
      result.has_guard = true;
      result.guard_is_negated = word.front() == '!';
      result.guard =
          register_of(word.substr(result.guard_is_negated ? 1 : 0), Operation::predicate);
      text = trimmed(text.substr(word.size() + 1));
    }
    const std::string_view opcode = text.substr(0, text.find_first_of(" \t"));
    const std::vector<std::string_view> operands = parts_of(text.substr(opcode.size()));
    if (opcode == "bra" || opcode == "bra.uni") {
      result.flow = Flow::branch;
      branches_.emplace_back(kernel_.code.size(), operands.at(0));
    } else if (opcode == "ret" || opcode == "exit") {
      result.flow = Flow::leave;
    } else if (opcode.starts_with("mov.")) {
      return move(result, opcode, operands);
    } else if (opcode.starts_with("ld.") || opcode.starts_with("st.")) {
      access(result, opcode, operands);
    } else {
      operate(result, opcode, operands);
    }
    kernel_.code.push_back(result);
  }

  void operate(Instruction& result, std::string_view opcode,
               const std::vector<std::string_view>& list) {
    const auto found = operations().find(opcode);
    if (found == operations().end())
      throw std::runtime_error("the interpreter has no operation " + std::string(opcode));
    const Operation& operation = found->second;
    result.run = operation.run, result.flow = operation.flow;
    std::vector<std::string_view> flat;
    bool has_offset = false;
    for (std::string_view operand : list) {
      if (operand.front() == '[') {
        operand = trimmed(inner(operand));
        const auto plus = operand.find('+');
        if (plus != operand.npos) {
          has_offset = true;
          result.offset = required_number(operand.substr(plus + 1));
        }
        flat.push_back(operand.substr(0, plus));
      } else if (operand.front() == '{') {
        for (const std::string_view part : parts_of(inner(operand))) flat.push_back(part);
      } else if (const auto bar = operand.find('|'); bar != operand.npos) {
        flat.push_back(operand.substr(0, bar)), flat.push_back(operand.substr(bar + 1));
      } else {
        flat.push_back(operand);
      }
    }
    if (flat.size() != operation.operands.size())
      throw std::runtime_error("the interpreter knows this operation with " +
                               std::to_string(operation.operands.size()) + " operands");
    for (std::size_t i = 0; i < flat.size(); ++i) {
      if (operation.operands[i] == Operation::immediate) {
        if (has_offset) throw std::runtime_error("the interpreter has no offset here");
        result.offset = required_number(flat[i]);
      } else if (i > 0 && opcode.starts_with("cvt.")) {
        result.at[i] = low_part(flat[i], operation.operands[i]);
      } else {
        result.at[i] = operand(flat[i], operation.operands[i]);
      }
    }
  }

  // The operand of a conversion, which may be the low half of a register with 64 bits.
  std::uint32_t low_part(std::string_view text, std::uint8_t size) {
    const auto found = registers_.find(text);
    if (found == registers_.end() || size != 4 || found->second.size != 8)
      return operand(text, size);
    Instruction part;
    part.line = static_cast<std::uint32_t>(line_);
    part.run = operations().find("cvt.u32.u64")->second.run;
    part.at = {reserve(4), found->second.at};
    kernel_.code.push_back(part);
    return part.at[0];
  }

  // mov.u32 a, b; mov.b32 a, {b, c}; mov.b32 {a, b}, c. Becomes moves of equal sizes, or a
  // composition from or to 16-bit or 32-bit parts.
  void move(Instruction& result, std::string_view opcode,
            const std::vector<std::string_view>& operands) {
    const std::uint8_t size = type_bytes(opcode.substr(opcode.find('.') + 1));
    if (size == 0 || operands.size() != 2)
      throw std::runtime_error("the interpreter has no operation " + std::string(opcode));
    const auto braced = [](std::string_view text) { return text.front() == '{'; };
    const std::string bits = size == Operation::predicate ? "pred" : std::to_string(size * 8);
    if (!braced(operands[0]) && !braced(operands[1])) {
      operate(result, "move " + bits, operands);
    } else {
      const bool joins = braced(operands[1]);
      const std::size_t count = parts_of(inner(operands[joins ? 1 : 0])).size();
      operate(result, (joins ? "join " : "split ") + bits + " " + std::to_string(count), operands);
    }
    kernel_.code.push_back(result);
  }

  // ld.global.cs.v4.u32 {a, b, c, d}, [e+16]; st the other way round.
  void access(Instruction& result, std::string_view opcode,
              const std::vector<std::string_view>& operands) {
    const bool loads = opcode.starts_with("ld");
    if (!takes_elements(result, opcode, loads) || operands.size() != 2)
      throw std::runtime_error("the interpreter has no operation " + std::string(opcode));
    const std::string_view address = operands[loads ? 1 : 0], values = operands[loads ? 0 : 1];
    if (address.front() != '[') throw std::runtime_error("an address stands in brackets");
    address_of(result, trimmed(inner(address)));
    const auto list = values.front() == '{' ? parts_of(inner(values)) : std::vector{values};
    if (list.size() != result.elements)
      throw std::runtime_error("the elements are not as many as the operation says");
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto found = registers_.find(list[i]);
      result.register_bytes = found != registers_.end() ? found->second.size : result.access_bytes;
      result.at[1 + i] = operand(list[i], result.register_bytes);
    }
  }

  // Takes the space, number and type of the elements from ld.global.cs.v4.u32. False if a part of
  // it is not known.
  static bool takes_elements(Instruction& result, std::string_view opcode, bool loads) {
    static constexpr std::string_view hints[] = {"cs", "wb", "nc", "relaxed"};
    const std::vector<std::string_view> words = split_at_points(opcode);
    std::string_view space;
    for (std::size_t i = 1; i + 1 < words.size(); ++i) {
      const std::string_view word = words[i];
      if (word == "global" || word == "shared" || word == "param")
        space = word;
      else if (word == "v2" || word == "v4")
        result.elements = word == "v2" ? 2 : 4;
      else if (std::find(std::begin(hints), std::end(hints), word) == std::end(hints))
        return false;
    }
    result.access_bytes = type_bytes(words.back());
    result.is_signed = words.back().front() == 's';
    result.run = loads ? load_from(space) : store_to(space);
    return result.run != nullptr && result.access_bytes != 0;
  }

  // %rd1, %rd1+16, %rd1+-16, NAME, NAME+16 or a number.
  void address_of(Instruction& result, std::string_view text) {
    const auto plus = text.find('+');
    const std::string_view base = text.substr(0, plus);
    if (plus != text.npos) result.offset = required_number(text.substr(plus + 1));
    const auto found = registers_.find(base);
    if (found != registers_.end())
      result.at[0] = operand(base, found->second.size), result.is_wide = found->second.size == 8;
    else
      result.at[0] = constant(symbol(base), 4);
  }

  std::uint32_t operand(std::string_view text, std::uint8_t size) {
    if (registers_.find(text) != registers_.end()) return register_of(text, size);
    if (const auto value = number(text)) return constant(*value, size);
    return constant(symbol(text), size);
  }

  std::uint32_t register_of(std::string_view text, std::uint8_t size) const {
    const auto found = registers_.find(text);
    if (found == registers_.end())
      throw std::runtime_error("there is no register " + std::string(text));
    if (found->second.size != size)
      throw std::runtime_error("the register " + std::string(text) + " has another size");
    return found->second.at;
  }

  std::int64_t symbol(std::string_view text) const {
    if (const auto found = symbols_.find(text); found != symbols_.end()) return found->second;
    if (text.find("dropbp_shared_memory") != text.npos) return shared_base;
    throw std::runtime_error("there is no symbol " + std::string(text));
  }

  std::uint32_t constant(std::int64_t value, std::uint8_t size) {
    const auto [found, is_new] = constants_.try_emplace({value, size}, 0u);
    if (!is_new) return found->second;
    const std::uint32_t at = found->second = reserve(size);
    if (size == Operation::predicate) {
      const std::uint32_t mask = value != 0 ? 0xFFFFFFFFu : 0u;
      std::memcpy(&kernel_.registers[at], &mask, sizeof mask);
    } else {
      static_assert(std::endian::native == std::endian::little);
      for (std::size_t lane = 0; lane < 32; ++lane)
        std::memcpy(&kernel_.registers[at + lane * size], &value, size);
    }
    return at;
  }

  std::uint32_t reserve(std::uint8_t size) {
    const auto at = static_cast<std::uint32_t>(kernel_.registers.size());
    kernel_.registers.resize(at + words_of(size));
    return at;
  }

  Kernel& kernel_;
  std::size_t line_ = 0;
  std::map<std::string, Register, std::less<>> registers_;
  std::map<std::string, std::int64_t, std::less<>> symbols_;
  std::map<std::pair<std::int64_t, std::uint8_t>, std::uint32_t> constants_;
  std::map<std::string_view, std::uint32_t> labels_;
  std::vector<std::pair<std::size_t, std::string_view>> branches_;
};

}  // namespace

Kernel::Kernel(std::string its_name, std::string text) : name(std::move(its_name)) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  Decoder(*this).decode();
}

}  // namespace ptx
