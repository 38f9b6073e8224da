// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Translates Oniguruma's patterns for PCRE2 and runs them.
#include "llama/formats/regex.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#ifdef DROPBP_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace llama {

#ifdef DROPBP_PCRE2

namespace {

// Unicode's White_Space, which is Oniguruma's \s. PCRE2's \s also has U+180E.
constexpr std::string_view white_space =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F})"
    R"(\x{3000})";

// Characters that mean the same behind a backslash in both libraries.
constexpr std::string_view literals = R"(rnt\/.-+*?()[]{}|^$'"#&)";

/// Reads a pattern from left to right and writes it for PCRE2.
class Translation {
 public:
  explicit Translation(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (in_class_)
        class_member();
      else
        outside();
    }
    return result_;
  }

 private:
  [[noreturn]] void fail(std::string_view part) const {
    throw std::runtime_error(
        fmt::format("a pattern must consist of literals, classes, \\s, \\S, \\r, \\n, \\t, "
                    "\\x{{code}}, \\p{{category}}, groups and "
                    "quantifiers, but '{}' has '{}' at byte {}; encode the text elsewhere and pass "
                    "the ids with --tokens",
                    pattern_, part, at_));
  }

  [[nodiscard]] bool next_is(std::string_view text) const {
    return pattern_.substr(at_).starts_with(text);
  }

  void copy(std::size_t size) {
    result_ += pattern_.substr(at_, size);
    at_ += size;
  }

  void outside() {
    switch (pattern_[at_]) {
      case '\\':
        return escape();
      case '[':
        return open_class();
      case '(':
        return open_group();
      case '{':
        return repetition();
      // They depend on where lines end, and the two libraries disagree on that.
      case '.':
      case '^':
      case '$':
        fail(pattern_.substr(at_, 1));
      default:
        return copy(1);
    }
  }

  void open_class() {
    in_class_ = true;
    copy(next_is("[^") ? 2 : 1);
    // Oniguruma and PCRE2 read a ']' here as a literal, but Ruby warns of it.
    if (next_is("]")) fail("]");
  }

  void open_group() {
    if (next_is("(?i:")) return copy(4);
    if (next_is("(?:") || next_is("(?=") || next_is("(?!")) return copy(3);
    if (next_is("(?") || next_is("(*")) fail(pattern_.substr(at_, 3));
    copy(1);
  }

  void class_member() {
    switch (pattern_[at_]) {
      case '\\':
        return escape();
      case '[':
        fail("[");  // a class in a class, or [:name:]
      case '&':
        if (next_is("&&")) fail("&&");
        return copy(1);
      case ']':
        in_class_ = false;
        return copy(1);
      default:
        return copy(1);
    }
  }

  void escape() {
    const std::string_view two = pattern_.substr(at_, 2);
    if (two.size() < 2) fail(two);
    switch (two[1]) {
      case 's':
        return space(in_class_ ? "" : "[", in_class_ ? "" : "]");
      case 'S':
        if (in_class_) fail(two);
        return space("[^", "]");
      case 'p':
        return category();
      case 'x':
        return code();
      default:
        if (literals.find(two[1]) == std::string_view::npos) fail(two);
        return copy(2);
    }
  }

  void space(std::string_view before, std::string_view after) {
    result_ += fmt::format("{}{}{}", before, white_space, after);
    at_ += 2;
  }

  /// From the escape to the '}' that ends it, or to the end of the pattern.
  [[nodiscard]] std::string_view braced() const {
    const std::size_t end = std::min(pattern_.find('}', at_), pattern_.size() - 1);
    return pattern_.substr(at_, end + 1 - at_);
  }

  /// \p{L} or \p{Lu}
  void category() {
    const std::string_view property = braced();
    const bool good = property.size() >= 5 && property.size() <= 6 && property[2] == '{' &&
                      property.back() == '}' &&
                      std::string_view("CLMNPSZ").find(property[3]) != std::string_view::npos &&
                      (property.size() == 5 || (property[4] >= 'a' && property[4] <= 'z'));
    if (!good) fail(property);
    copy(property.size());
  }

  /// \x{1F600}
  void code() {
    const std::string_view text = braced();
    if (text.size() < 5 || text[2] != '{' ||
        text.find_first_not_of("0123456789ABCDEFabcdef", 3) != text.size() - 1)
      fail(text);
    copy(text.size());
  }

  /// {m}, {m,} or {m,n}; other forms, and a '+' behind one, differ between the libraries.
  void repetition() {
    const std::size_t end = pattern_.find('}', at_);
    const std::string_view inside =
        end == std::string_view::npos ? "" : pattern_.substr(at_ + 1, end - at_ - 1);
    const bool plain = !inside.empty() && inside.front() != ',' &&
                       std::ranges::count(inside, ',') <= 1 &&
                       inside.find_first_not_of("0123456789,") == std::string_view::npos;
    if (!plain || pattern_.substr(end + 1).starts_with('+'))
      fail(pattern_.substr(at_, inside.size() + 3));
    copy(inside.size() + 2);
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string result_;
};

std::string message_of(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <auto Free>
struct FreeWith {
  template <typename Type>
  void operator()(Type* object) const noexcept {
    Free(object);
  }
};

}  // namespace

struct Regex::Program {
  std::unique_ptr<pcre2_code, FreeWith<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_data, FreeWith<pcre2_match_data_free>> match;
  std::unique_ptr<pcre2_match_context, FreeWith<pcre2_match_context_free>> context;
  std::unique_ptr<pcre2_jit_stack, FreeWith<pcre2_jit_stack_free>> stack;
};

bool Regex::available() noexcept { return true; }

Regex::Regex(const std::string& pattern) : program_(std::make_unique<Program>()) {
  const std::string translated = Translation(pattern).run();
  int error = 0;
  PCRE2_SIZE where = 0;
  program_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                     translated.size(), PCRE2_UTF | PCRE2_UCP, &error, &where,
                                     nullptr));
  const auto require = [&](bool good, const std::string& given) {
    if (!good)
      throw std::runtime_error(fmt::format(
          "a pattern must be a regular expression that matches no empty text, but '{}' {}; encode "
          "the text elsewhere and pass the ids with --tokens",
          pattern, given));
  };
  require(program_->code != nullptr, fmt::format("gives: {}", message_of(error)));
  std::uint32_t matches_empty = 0;
  pcre2_pattern_info(program_->code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  require(matches_empty == 0, "may match it");
  // Without a just-in-time compiler the pattern is interpreted.
  pcre2_jit_compile(program_->code.get(), PCRE2_JIT_COMPLETE);
  program_->match.reset(pcre2_match_data_create_from_pattern(program_->code.get(), nullptr));
  program_->context.reset(pcre2_match_context_create(nullptr));
  program_->stack.reset(
      pcre2_jit_stack_create(std::size_t{32} << 10, std::size_t{64} << 20, nullptr));
  if (!program_->match || !program_->context) throw std::bad_alloc();
  if (program_->stack)
    pcre2_jit_stack_assign(program_->context.get(), nullptr, program_->stack.get());
  // The limit counts steps, and one match may span megabytes of spaces.
  pcre2_set_match_limit(program_->context.get(), 0xFFFFFFFF);
}

std::optional<Regex::Match> Regex::find(std::string_view text, std::size_t from) const {
  const int result =
      pcre2_match(program_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                  from, PCRE2_NO_UTF_CHECK, program_->match.get(), program_->context.get());
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0)
    throw std::runtime_error(fmt::format(
        "a text of {} bytes must be split by the tokenizer's pattern, but PCRE2 fails after byte "
        "{}: {}; encode the text elsewhere and pass the ids with --tokens",
        text.size(), from, message_of(result)));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(program_->match.get());
  return Match{range[0], range[1]};
}

#else

struct Regex::Program {};

bool Regex::available() noexcept { return false; }

Regex::Regex(const std::string&) {
  throw std::runtime_error(
      "--tokenizer needs PCRE2, but this program was built without it; install it (apt-get install "
      "libpcre2-dev), configure and "
      "build again, or encode the text elsewhere and pass the ids with --tokens");
}

std::optional<Regex::Match> Regex::find(std::string_view, std::size_t) const {
  return std::nullopt;
}

#endif

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

}  // namespace llama
