// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The signatures of formats, in one table.
#include "llama/formats/file_format.hpp"

#include <algorithm>
#include <cctype>
#include <string>

namespace llama {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view unpack = "unpack it, and give the text that is in it",
                           write_text =
                               "write the texts that are in it as plain text, a file for each",
                           to_utf8 = "convert it to UTF-8, with iconv for example",
                           leave_out = "give text instead";

struct Signature {
  std::string_view bytes;
  std::size_t at;
  FileFormat format;
};

// A signature precedes its prefixes.
constexpr Signature signatures[] = {
    {"version https://git-lfs.github.com/spec/"sv,
     0,
     {"a Git LFS pointer in the place of the file", "fetch the file itself with git lfs pull",
      true}},
    {"\x1F\x8B"sv, 0, {"a gzip file", unpack, true}},
    {"\x28\xB5\x2F\xFD"sv, 0, {"a zstd file", unpack, true}},
    {"\xFD\x37zXZ\0"sv, 0, {"an xz file", unpack, true}},
    {"\x04\x22\x4D\x18"sv, 0, {"an lz4 file", unpack, true}},
    {"1AY&SY"sv, 4, {"a bzip2 file", unpack, true}},
    {"PK\3\4"sv, 0, {"a zip archive (.npz and PyTorch's .pt are, too)", unpack, true}},
    {"PK\5\6"sv, 0, {"an empty zip archive", unpack, true}},
    {"7z\xBC\xAF\x27\x1C"sv, 0, {"a 7z archive", unpack, true}},
    {"Rar!\x1A\x07"sv, 0, {"a RAR archive", unpack, true}},
    {"ustar"sv, 257, {"a tar archive", unpack, true}},
    {"PAR1"sv, 0, {"a Parquet file", write_text, true}},
    {"ARROW1"sv, 0, {"an Arrow file", write_text, true}},
    {"FEA1"sv, 0, {"a Feather file", write_text, true}},
    {"\xFF\xFF\xFF\xFF"sv, 0, {"an Arrow stream", write_text, true}},
    {"\x93NUMPY"sv,
     0,
     {"a NumPy array", "write ids with array.astype('<i4').tofile('ids.i32') and use --tokens",
      true}},
    {"\x89HDF\r\n\x1A\n"sv, 0, {"an HDF5 file", write_text, true}},
    {"SQLite format 3\0"sv, 0, {"an SQLite database", write_text, true}},
    {"\x80\2"sv, 0, {"a Python pickle (PyTorch's older .pt is one)", write_text, true}},
    {"\x80\3"sv, 0, {"a Python pickle", write_text, true}},
    {"\x80\4"sv, 0, {"a Python pickle", write_text, true}},
    {"\x80\5"sv, 0, {"a Python pickle", write_text, true}},
    {"%PDF-"sv,
     0,
     {"a PDF document", "convert it to plain text, with pdftotext for example", true}},
    {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv,
     0,
     {"an old office document", "save it as plain text", true}},
    {"{\\rtf"sv, 0, {"an RTF document", "save it as plain text", true}},
    {"\xFF\xFE\0\0"sv, 0, {"UTF-32 text", to_utf8, true}},
    {"\0\0\xFE\xFF"sv, 0, {"UTF-32 text", to_utf8, true}},
    {"\xFF\xFE"sv, 0, {"UTF-16 text", to_utf8, true}},
    {"\xFE\xFF"sv, 0, {"UTF-16 text", to_utf8, true}},
    {"GGUF"sv, 0, {"a GGUF model", leave_out, false}},
    {"\x89PNG\r\n\x1A\n"sv, 0, {"a PNG image", leave_out, false}},
    {"\xFF\xD8\xFF"sv, 0, {"a JPEG image", leave_out, false}},
    {"GIF87a"sv, 0, {"a GIF image", leave_out, false}},
    {"GIF89a"sv, 0, {"a GIF image", leave_out, false}},
    {"WEBP"sv, 8, {"a WebP image", leave_out, false}},
    {"WAVE"sv, 8, {"a WAV recording", leave_out, false}},
    {"\x7F"
     "ELF"sv,
     0,
     {"a program", leave_out, false}},
};

constexpr FileFormat safetensors{"a safetensors file", leave_out, false};
constexpr FileFormat html{"an HTML page (a failed download often is one)",
                          "fetch the file itself, or convert the page to plain text", true};
constexpr FileFormat json_list{
    "a JSON list", "write it as JSON lines, an object a line, in a file ending in .jsonl", true};
constexpr FileFormat json_lines{json_lines_name, "name it .jsonl: its lines are samples then",
                                true};
constexpr FileFormat utf16{"UTF-16 text without a byte order mark", to_utf8, true};
constexpr FileFormat binary{"a binary file (it has a NUL byte)", leave_out, false};

// Usual keys of the texts in training data.
constexpr std::string_view record_keys[] = {
    "text",        "content",  "prompt",   "completion", "messages", "conversations",
    "instruction", "response", "question", "answer",     "chosen",   "rejected"};

bool has_signature(std::string_view front, const Signature& one) {
  if (front.size() < one.at || !front.substr(one.at).starts_with(one.bytes)) return false;
  if (one.at == 4) return front.starts_with("BZh");   // bzip2's block, behind its level
  if (one.at == 8) return front.starts_with("RIFF");  // of the container's types
  return true;
}

// The header's size in eight bytes, then the header, a JSON object.
bool is_safetensors(std::string_view front) {
  return front.size() > 9 && front.substr(4, 4) == "\0\0\0\0"sv && front.substr(8, 2) == "{\""sv;
}

std::string_view behind_space(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

bool is_html(std::string_view text) {
  std::string begin(text.substr(0, 15));
  std::ranges::transform(begin, begin.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return begin.starts_with("<!doctype html") || begin.starts_with("<html>") ||
         begin.starts_with("<html ");
}

// Whether `text`, which follows '[', begins an object with a key, or a string followed by ',' or
// ']', which does not occur in prose.
bool is_json_list(std::string_view text) {
  text = behind_space(text);
  if (text.starts_with('{')) {
    text = behind_space(text.substr(1));
    return text.starts_with('"') || text.starts_with('}');
  }
  if (!text.starts_with('"')) return false;
  std::size_t end = 1;
  while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2U : 1U;
  if (end >= text.size()) return true;  // a string longer than the probe
  text = behind_space(text.substr(end + 1));
  return text.starts_with(',') || text.starts_with(']');
}

// Whether the first line begins an object that has a key of training data; its end may lie beyond
// the probe.
bool is_json_lines(std::string_view text) {
  if (!behind_space(text.substr(1)).starts_with('"')) return false;
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  while (line.ends_with('\r') || line.ends_with(' ')) line.remove_suffix(1);
  if (end != std::string_view::npos && !line.ends_with('}')) return false;
  return std::ranges::any_of(record_keys, [&](std::string_view key) {
    const std::string quoted = '"' + std::string(key) + '"';
    const std::size_t at = line.find(quoted);
    return at != std::string_view::npos &&
           behind_space(line.substr(at + quoted.size())).starts_with(':');
  });
}

// Whether the text is mostly Latin in UTF-16: NUL bytes are frequent at even or at odd positions,
// not at both. False for a few bytes.
bool is_utf16(std::string_view front) {
  std::size_t nuls[2] = {};
  for (std::size_t i = 0; i < front.size(); ++i) nuls[i % 2] += front[i] == '\0' ? 1U : 0U;
  const std::size_t most = std::max(nuls[0], nuls[1]);
  return nuls[0] + nuls[1] == most && most >= 4 && 4 * most > front.size();
}

}  // namespace

std::optional<FileFormat> format_of(std::string_view front) {
  front = front.substr(0, format_probe);
  for (const Signature& one : signatures)
    if (has_signature(front, one)) return one.format;
  if (is_safetensors(front)) return safetensors;
  if (is_utf16(front)) return utf16;
  if (front.find('\0') != std::string_view::npos) return binary;
  const std::string_view text = behind_space(front);
  if (is_html(text)) return html;
  if (text.starts_with('[') && is_json_list(text.substr(1))) return json_list;
  if (text.starts_with('{') && is_json_lines(text)) return json_lines;
  return std::nullopt;
}

std::optional<FileFormat> format_of_ids(std::string_view front) {
  constexpr std::size_t no_chance = 6;  // bytes
  for (const Signature& one : signatures)
    if (one.bytes.size() >= no_chance && has_signature(front, one)) return one.format;
  if (is_safetensors(front)) return safetensors;
  return std::nullopt;
}

}  // namespace llama
