// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reads and checks the file, and encodes: special tokens, normalizer, splits, merges.
#include "llama/formats/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "llama/formats/regex.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

using json = nlohmann::json;
using Id = std::int32_t;

constexpr const char* way_out = "encode the text elsewhere and pass the ids with --tokens";

// GPT-2's pattern, which ByteLevel uses.
constexpr const char* byte_level_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Characters that NFC replaces or may join to the character before (Unicode 14, and all marks of
// later versions): combining marks, jamo that end a syllable, and the characters that NFC replaces.
constexpr const char* not_surely_nfc =
    R"((?![\x{FE00}-\x{FE0F}])[\p{M}\x{374}\x{37E}\x{387}\x{958}-\x{95F}\x{9DC}-\x{9DD}\x{9DF}\x{A33}\x{A36}\x{A59}-\x{A5B})"
    R"(\x{A5E}\x{B5C}-\x{B5D}\x{F43}\x{F4D}\x{F52}\x{F57}\x{F5C}\x{F69}\x{1161}-\x{1175}\x{11A8}-\x{11C2}\x{1F71}\x{1F73})"
    R"(\x{1F75}\x{1F77}\x{1F79}\x{1F7B}\x{1F7D}\x{1FBB}\x{1FBE}\x{1FC9}\x{1FCB}\x{1FD3}\x{1FDB}\x{1FE3}\x{1FEB})"
    R"(\x{1FEE}-\x{1FEF}\x{1FF9}\x{1FFB}\x{1FFD}\x{2000}-\x{2001}\x{2126}\x{212A}-\x{212B}\x{2329}-\x{232A}\x{2ADC})"
    R"(\x{F900}-\x{FA0D}\x{FA10}\x{FA12}\x{FA15}-\x{FA1E}\x{FA20}\x{FA22}\x{FA25}-\x{FA26}\x{FA2A}-\x{FA6D})"
    R"(\x{FA70}-\x{FAD9}\x{FB1D}\x{FB1F}\x{FB2A}-\x{FB36}\x{FB38}-\x{FB3C}\x{FB3E}\x{FB40}-\x{FB41}\x{FB43}-\x{FB44})"
    R"(\x{FB46}-\x{FB4E}\x{1D15E}-\x{1D164}\x{1D1BB}-\x{1D1C0}\x{2F800}-\x{2FA1D}])";

/// Bytes of the valid UTF-8 character at the front; 0 if there is none. The many branches are the
/// table of UTF-8's byte ranges.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xC2 && first < 0xE0   ? 2
                           : first >= 0xE0 && first < 0xF0 ? 3
                           : first >= 0xF0 && first < 0xF5 ? 4
                                                           : 0;
  if (size == 0 || text.size() < size) return 0;
  // No overlong forms, no surrogates, nothing above U+10FFFF.
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < size; ++i)
    if ((byte(i) & 0xC0U) != 0x80) return 0;
  return size;
}

/// The character at the front of valid UTF-8.
unsigned code_of(std::string_view text) {
  const std::size_t size = character_size(text);
  unsigned code = static_cast<unsigned char>(text[0]) & (size == 1 ? 0x7FU : 0xFFU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i)
    code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3FU);
  return code;
}

/// The byte of each character of a byte-level vocabulary: printable Latin-1 characters are their
/// own byte, the other 68 bytes are U+0100 and following.
const std::unordered_map<unsigned, unsigned char>& byte_of_character() {
  static const auto map = [] {
    std::unordered_map<unsigned, unsigned char> result;
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      result.emplace(itself ? b : next++, static_cast<unsigned char>(b));
    }
    return result;
  }();
  return map;
}

/// Empty if the token has a character that byte-level text cannot contain, such as a space.
std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const auto found = byte_of_character().find(code_of(token));
    if (found == byte_of_character().end()) return std::nullopt;
    bytes += static_cast<char>(found->second);
    token.remove_prefix(character_size(token));
  }
  return bytes;
}

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept {
    return std::hash<std::string_view>()(text);
  }
};
template <typename Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

/// Reads members of the file; errors name the file and the member's dotted name.
class File {
 public:
  explicit File(const std::filesystem::path& path)
      : name_(fmt::format("'{}'", path.string())),
        root_(parse_strict_json(read_small_file(path), name_)) {}

  [[nodiscard]] const json& root() const noexcept { return root_; }

  [[noreturn]] void fail(const std::string& key, const std::string& required,
                         const std::string& given) const {
    throw std::runtime_error(
        fmt::format("{}: '{}' must be {}, but it is {}; {}", name_, key, required, given, way_out));
  }
  [[noreturn]] void fail(const std::string& key, const std::string& required,
                         const json& given) const {
    std::string text = given.dump(-1, ' ', true);
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    fail(key, required, given.is_null() ? "missing or null" : text);
  }

  /// Null if it is absent.
  [[nodiscard]] static const json& member(const json& object, const char* key) {
    static const json absent;
    const auto found = object.is_object() ? object.find(key) : object.end();
    return found == object.end() ? absent : *found;
  }

  [[nodiscard]] bool boolean(const json& object, const std::string& prefix, const char* key,
                             bool otherwise) const {
    const json& value = member(object, key);
    if (value.is_null()) return otherwise;
    if (!value.is_boolean()) fail(prefix + key, "true or false", value);
    return value.get<bool>();
  }

  void require_false(const json& object, const std::string& prefix, const char* key) const {
    if (boolean(object, prefix, key, false)) fail(prefix + key, "false", member(object, key));
  }

  [[nodiscard]] const std::string& string(const json& value, const std::string& key) const {
    if (!value.is_string()) fail(key, "a string", value);
    return value.get_ref<const std::string&>();
  }

  [[nodiscard]] Id id(const json& value, const std::string& key) const {
    constexpr std::uint64_t limit = 1 << 24;
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= limit)
      fail(key, fmt::format("an id, a whole number below {}", limit), value);
    return static_cast<Id>(value.get<std::uint64_t>());
  }

 private:
  std::string name_;
  json root_;
};

struct Merge {
  std::size_t rank;
  Id result;
};

std::uint64_t pair_key(Id left, Id right) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

/// Byte pair encoding: merges neighbours in the order of the ranks, leftmost first.
class Bpe {
 public:
  Bpe(const File& file, const json& model)
      : whole_words_(file.boolean(model, "model.", "ignore_merges", false)) {
    refuse_unsupported(file, model);
    read_vocabulary(file, File::member(model, "vocab"));
    read_merges(file, File::member(model, "merges"));
  }

  [[nodiscard]] const StringMap<Id>& ids() const noexcept { return ids_; }

  void encode(std::string_view word, std::vector<Id>& result) {
    constexpr std::size_t longest_kept = 64,
                          most_kept = 1 << 18;  // bytes, and number of words: about 50 MB
    if (word.size() > longest_kept) return merge(word, result);
    auto known = cache_.find(word);
    if (known == cache_.end()) {
      if (cache_.size() == most_kept) cache_.clear();
      std::vector<Id> ids;
      merge(word, ids);
      known = cache_.emplace(word, std::move(ids)).first;
    }
    result.insert(result.end(), known->second.begin(), known->second.end());
  }

 private:
  static void refuse_unsupported(const File& file, const json& model) {
    if (const json& type = File::member(model, "type"); !type.is_null() && type != "BPE")
      file.fail("model.type", "BPE", type);
    if (const json& dropout = File::member(model, "dropout"); !dropout.is_null() && dropout != 0.0)
      file.fail("model.dropout", "null", dropout);
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const json& value = File::member(model, affix); !value.is_null() && value != "")
        file.fail(fmt::format("model.{}", affix), "empty", value);
    file.require_false(model, "model.", "byte_fallback");
  }

  void read_vocabulary(const File& file, const json& vocab) {
    if (!vocab.is_object() || vocab.empty()) file.fail("model.vocab", "an object of tokens", vocab);
    std::unordered_map<Id, std::string_view> owners;
    for (const auto& [token, id] : vocab.items()) {
      const Id value = file.id(id, "model.vocab." + token);
      if (const auto [owner, fresh] = owners.emplace(value, token); !fresh)
        file.fail("model.vocab." + token, "an id of its own",
                  fmt::format("{}, that of '{}' too", value, owner->second));
      ids_.emplace(token, value);
      if (auto bytes = bytes_of_token(token)) words_.emplace(std::move(*bytes), value);
    }
    for (std::size_t b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      const auto found = words_.find(std::string_view(&byte, 1));
      byte_ids_[b] = found == words_.end() ? -1 : found->second;
    }
  }

  void read_merges(const File& file, const json& merges) {
    if (!merges.is_array()) file.fail("model.merges", "a list", merges);
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const std::string key = fmt::format("model.merges[{}]", rank);
      const auto [left, right] = parts_of(file, merges[rank], key);
      const auto known = [&](const std::string& token) {
        const auto found = ids_.find(token);
        if (found == ids_.end())
          file.fail(key, "of tokens in model.vocab", fmt::format("of '{}'", token));
        return found->second;
      };
      merges_.insert_or_assign(pair_key(known(left), known(right)),
                               Merge{rank, known(left + right)});
    }
  }

  /// "a b", or ["a", "b"].
  static std::pair<std::string, std::string> parts_of(const File& file, const json& merge,
                                                      const std::string& key) {
    if (merge.is_array() && merge.size() == 2)
      return {file.string(merge[0], key), file.string(merge[1], key)};
    const std::string& text = file.string(merge, key);
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      file.fail(key, "two tokens", merge);
    return {text.substr(0, space), text.substr(space + 1)};
  }

  struct Symbol {
    Id id;  // -1: merged into the previous symbol
    std::size_t previous;
    std::size_t next;
  };
  struct Candidate {
    std::size_t rank;
    std::size_t at;
    Id result;
    bool operator>(const Candidate& other) const noexcept {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  [[nodiscard]] const Merge* merge_at(std::size_t at) const {
    if (symbols_[at].id < 0 || symbols_[at].next == none) return nullptr;
    const auto found = merges_.find(pair_key(symbols_[at].id, symbols_[symbols_[at].next].id));
    return found == merges_.end() ? nullptr : &found->second;
  }

  /// Makes a linked list of the word's bytes.
  void list_bytes(std::string_view word) {
    symbols_.clear();
    for (std::size_t i = 0; i < word.size(); ++i) {
      const auto byte = static_cast<unsigned char>(word[i]);
      if (byte_ids_[byte] < 0)
        throw std::runtime_error(
            fmt::format("the tokenizer must have a token for each byte of the text, but it has "
                        "none for 0x{:02X}; {}",
                        byte, way_out));
      symbols_.push_back(
          {byte_ids_[byte], i == 0 ? none : i - 1, i + 1 == word.size() ? none : i + 1});
    }
  }

  void merge(std::string_view word, std::vector<Id>& result) {
    if (whole_words_) {
      if (const auto found = words_.find(word); found != words_.end())
        return result.push_back(found->second);
    }
    list_bytes(word);
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
    const auto propose = [&](std::size_t at) {
      if (at == none) return;
      if (const Merge* merge = merge_at(at)) queue.push({merge->rank, at, merge->result});
    };
    for (std::size_t i = 0; i < symbols_.size(); ++i) propose(i);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      // Outdated: one of the two has been merged with another symbol meanwhile.
      const Merge* still = merge_at(best.at);
      if (still == nullptr || still->result != best.result) continue;
      Symbol& left = symbols_[best.at];
      Symbol& right = symbols_[left.next];
      left.id = best.result;
      left.next = right.next;
      right.id = -1;
      if (left.next != none) symbols_[left.next].previous = best.at;
      propose(left.previous);
      propose(best.at);
    }
    for (const Symbol& symbol : symbols_)
      if (symbol.id >= 0) result.push_back(symbol.id);
  }

  StringMap<Id> ids_;    // as written in the file
  StringMap<Id> words_;  // as bytes
  std::array<Id, 256> byte_ids_{};
  std::unordered_map<std::uint64_t, Merge> merges_;
  bool whole_words_;
  StringMap<std::vector<Id>> cache_;
  std::vector<Symbol> symbols_;
};

/// Tokens that are found first, before the text is split: the leftmost, and the longest of these.
class AddedTokens {
 public:
  void add(std::string content, Id id) {
    auto& list = by_first_byte_[static_cast<unsigned char>(content.front())];
    list.emplace_back(std::move(content), id);
    std::ranges::sort(list, std::greater<>(), [](const auto& token) { return token.first.size(); });
  }

  /// Calls `between` for each text between tokens and `token` for the ids.
  template <typename Between, typename Token>
  void split(std::string_view text, Between between, Token token) const {
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
      const auto& list = by_first_byte_[static_cast<unsigned char>(text[at])];
      const auto found = std::ranges::find_if(
          list, [&](const auto& one) { return text.substr(at).starts_with(one.first); });
      if (found == list.end()) {
        ++at;
        continue;
      }
      if (begin < at) between(text.substr(begin, at - begin));
      token(found->second);
      begin = at += found->first.size();
    }
    if (begin < text.size()) between(text.substr(begin));
  }

 private:
  std::array<std::vector<std::pair<std::string, Id>>, 256> by_first_byte_;
};

/// A step of the pre-tokenizer: adds a leading space if there is none, then splits around the
/// matches.
struct Step {
  bool prefix_space = false;
  std::optional<Regex> regex;
};

std::vector<Step> steps_of(const File& file) {
  std::vector<Step> steps;
  bool byte_level = false;
  const auto add = [&](const json& object, const std::string& key) {
    const json& type = File::member(object, "type");
    if (byte_level) file.fail(key, "absent behind ByteLevel", type);
    Step step;
    if (type == "ByteLevel") {
      byte_level = true;
      step.prefix_space = file.boolean(object, key + ".", "add_prefix_space", true);
      if (file.boolean(object, key + ".", "use_regex", true))
        step.regex.emplace(byte_level_pattern);
    } else if (type == "Split") {
      const json& pattern = File::member(File::member(object, "pattern"), "Regex");
      if (!pattern.is_string())
        file.fail(key + ".pattern", "a Regex", File::member(object, "pattern"));
      if (File::member(object, "behavior") != "Isolated")
        file.fail(key + ".behavior", "Isolated", File::member(object, "behavior"));
      file.require_false(object, key + ".", "invert");
      try {
        step.regex.emplace(pattern.get<std::string>());
      } catch (const std::runtime_error& error) {
        throw std::runtime_error(fmt::format("'{}.pattern': {}", key, error.what()));
      }
    } else if (type == "Digits") {
      step.regex.emplace(file.boolean(object, key + ".", "individual_digits", false) ? R"(\p{N})"
                                                                                     : R"(\p{N}+)");
    } else {
      file.fail(key + ".type", "ByteLevel, Split, Digits or a Sequence of them", type);
    }
    steps.push_back(std::move(step));
  };
  const json& root = File::member(file.root(), "pre_tokenizer");
  if (File::member(root, "type") == "Sequence") {
    const json& list = File::member(root, "pretokenizers");
    if (!list.is_array()) file.fail("pre_tokenizer.pretokenizers", "a list", list);
    for (std::size_t i = 0; i < list.size(); ++i)
      add(list[i], fmt::format("pre_tokenizer.pretokenizers[{}]", i));
  } else {
    add(root, "pre_tokenizer");
  }
  if (!byte_level) file.fail("pre_tokenizer", "one with ByteLevel at its end", root);
  return steps;
}

}  // namespace

void check_utf8(std::string_view text, const std::string& what) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text.substr(at));
    if (size == 0)
      throw std::runtime_error(fmt::format(
          "{} must be UTF-8 for a tokenizer, but byte {} (0x{:02X}) is not; convert it, with iconv "
          "for example",
          what, at, static_cast<unsigned char>(text[at])));
    at += size;
  }
}

struct Tokenizer::Model {
  explicit Model(const File& file)
      : steps(steps_of(file)), bpe(file, File::member(file.root(), "model")) {
    if (const json& normalizer = File::member(file.root(), "normalizer"); !normalizer.is_null()) {
      if (File::member(normalizer, "type") != "NFC")
        file.fail("normalizer", "null or NFC", normalizer);
      changed_by_nfc.emplace(not_surely_nfc);
    }
    std::unordered_map<Id, std::string> by_id;
    for (const auto& [token, id] : bpe.ids()) {
      vocabulary = std::max<std::ptrdiff_t>(vocabulary, id + 1);
      by_id.emplace(id, token);
    }
    const json& tokens = File::member(file.root(), "added_tokens");
    if (!tokens.is_null() && !tokens.is_array()) file.fail("added_tokens", "a list", tokens);
    Id last_added = -1;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const Id id =
          add_token(file, tokens[i], fmt::format("added_tokens[{}]", i), last_added, by_id);
      last_added = std::max(last_added, id);
      vocabulary = std::max<std::ptrdiff_t>(vocabulary, id + 1);
    }
  }

  /// Adds the token of one entry of `added_tokens` and returns its id. `key` names the entry,
  /// `last_added` is the largest id of the entries before it, `by_id` has the owner of each id.
  Id add_token(const File& file, const json& entry, const std::string& key, Id last_added,
               std::unordered_map<Id, std::string>& by_id) {
    const json& text = File::member(entry, "content");
    const std::string& content = file.string(text, key + ".content");
    if (content.empty()) file.fail(key + ".content", "some text", text);
    const Id id = file.id(File::member(entry, "id"), key + ".id");
    for (const char* flag : {"single_word", "lstrip", "rstrip"})
      file.require_false(entry, key + ".", flag);
    // Hugging Face tokenizers ignores `id` and numbers the tokens itself.
    const auto in_model = bpe.ids().find(content);
    const Id counted = in_model != bpe.ids().end()
                           ? in_model->second
                           : std::max(static_cast<Id>(bpe.ids().size()), last_added + 1);
    if (id != counted)
      file.fail(key + ".id",
                fmt::format("{}, because the tokenizers library numbers it so", counted),
                File::member(entry, "id"));
    if (const auto owner = by_id.emplace(id, content).first; owner->second != content)
      file.fail(key + ".id", "an id of its own",
                fmt::format("{}, that of '{}' too", id, owner->second));
    const bool normalized = file.boolean(entry, key + ".", "normalized", false);
    if (normalized && changed_by_nfc && changed_by_nfc->find(content, 0))
      file.fail(key + ".content", "text that NFC leaves alone", text);
    (normalized ? after_normalizer : before_normalizer).add(content, id);
    added.emplace(content, id);
    return id;
  }

  /// Applies the steps from number `step` on, then encodes.
  void encode(std::string_view piece, std::size_t step, std::vector<Id>& result) {
    if (step == steps.size()) return bpe.encode(piece, result);
    std::string prefixed;
    if (steps[step].prefix_space && !piece.starts_with(' '))
      piece = prefixed = fmt::format(" {}", piece);
    std::size_t begin = 0;
    while (steps[step].regex) {
      const auto match = steps[step].regex->find(piece, begin);
      if (!match) break;
      if (begin < match->begin) encode(piece.substr(begin, match->begin - begin), step + 1, result);
      encode(piece.substr(match->begin, match->end - match->begin), step + 1, result);
      begin = match->end;
    }
    if (begin < piece.size()) encode(piece.substr(begin), step + 1, result);
  }

  std::optional<Regex> changed_by_nfc;
  std::vector<Step> steps;
  Bpe bpe;
  AddedTokens before_normalizer;
  AddedTokens after_normalizer;
  std::unordered_map<std::string, Id> added;
  std::ptrdiff_t vocabulary = 0;
};

Tokenizer::Tokenizer(const std::filesystem::path& file) {
  if (!Regex::available()) Regex("");  // throws for any file
  model_ = std::make_unique<Model>(File(file));
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

std::ptrdiff_t Tokenizer::vocabulary() const noexcept { return model_->vocabulary; }

std::optional<std::int32_t> Tokenizer::id_of(const std::string& token) const {
  if (const auto found = model_->added.find(token); found != model_->added.end())
    return found->second;
  const auto found = model_->bpe.ids().find(token);
  return found == model_->bpe.ids().end() ? std::nullopt : std::optional<Id>(found->second);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, const std::string& what) const {
  check_utf8(text, what);
  std::vector<Id> result;
  const auto push = [&](Id id) { result.push_back(id); };
  const auto normalized = [&](std::string_view piece) {
    if (model_->changed_by_nfc) {
      if (const auto match = model_->changed_by_nfc->find(piece, 0)) {
        const std::string_view from = piece.substr(match->begin);
        throw std::runtime_error(
            fmt::format("{} must have no character that the tokenizer's normalizer NFC may change, "
                        "but byte {} begins U+{:04X}; {}",
                        what, from.data() - text.data(), code_of(from), way_out));
      }
    }
    model_->after_normalizer.split(
        piece, [&](std::string_view plain) { model_->encode(plain, 0, result); }, push);
  };
  model_->before_normalizer.split(text, normalized, push);
  return result;
}

}  // namespace llama
