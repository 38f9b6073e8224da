// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Text is encoded to the ids of the published library; unsupported files and text give clear
// errors.
#include "llama/formats/tokenizer.hpp"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llama/app/data.hpp"
#include "llama/files.hpp"
#include "llama/formats/regex.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using nlohmann::json;
using test::TemporaryFolder;
using Ids = std::vector<std::int32_t>;

const std::string data_folder = DROPBP_TEST_DATA "/tokenizer/";

json stored(const std::string& name) {
  return json::parse(test::read_bytes(data_folder + name + ".json"));
}

/// The tokenizer of the file with one change by a patch of RFC 7386.
Tokenizer changed(const std::string& name, const json& patch) {
  const TemporaryFolder folder;
  json file = stored(name);
  file.merge_patch(patch);
  test::write_bytes(folder / "t.json", file.dump());
  return Tokenizer(folder / "t.json");
}

json with_split(const json& split) {
  return {{"pre_tokenizer",
           {{"pretokenizers", {split, {{"type", "ByteLevel"}, {"use_regex", false}}}}}}};
}

}  // namespace

TEST_CASE("tokenizer: hard strings get the ids of the published library") {
  const json golden = stored("golden");
  for (const char* name : {"gpt2", "llama3", "smollm", "qwen2"}) {
    if (name == std::string("qwen2") && !can_normalize()) continue;
    const Tokenizer tokenizer(data_folder + name + ".json");
    auto strings = golden["strings"].get<std::vector<std::string>>();
    const auto unnormalized = golden["unnormalized"].get<std::vector<std::string>>();
    if (name != std::string("qwen2"))
      strings.insert(strings.end(), unnormalized.begin(), unnormalized.end());
    const json& expected = golden["ids"][name];
    REQUIRE(strings.size() == expected.size());
    REQUIRE(strings.size() >= 60);
    // Twice: the second time words come from the cache.
    for (int time = 0; time < 2; ++time) {
      for (std::size_t i = 0; i < strings.size(); ++i) {
        INFO(name << ": " << strings[i]);
        CHECK(tokenizer.encode(strings[i]) == expected[i].get<Ids>());
      }
    }
  }
}

TEST_CASE("tokenizer: the vocabulary counts added tokens") {
  for (const auto& [name, size] : {std::pair("gpt2", 505), std::pair("llama3", 708),
                                   std::pair("smollm", 506), std::pair("qwen2", 606)}) {
    if (name == std::string("qwen2") && !can_normalize()) continue;
    CHECK(Tokenizer(data_folder + name + ".json").vocabulary() == size);
  }
}

TEST_CASE("tokenizer: SentencePiece's way and normal forms get the ids of the published library") {
  const json golden = stored("golden_more");
  const auto more = golden["more"].get<std::vector<std::string>>();
  std::size_t checked = 0;
  for (const auto& [name, expected] : golden["ids"].items()) {
    if (name == "qwen2" && !can_normalize()) continue;  // counted as skipped below
    const Tokenizer tokenizer(data_folder + name + ".json");
    std::vector<std::string> strings;
    if (!stored("golden")["ids"].contains(name))
      strings = stored("golden")["strings"].get<std::vector<std::string>>();
    for (const auto& text : golden["unnormalized"].get<std::vector<std::string>>())
      strings.push_back(text);
    strings.insert(strings.end(), more.begin(), more.end());
    REQUIRE(strings.size() == expected.size());
    for (std::size_t i = 0; i < strings.size(); ++i) {
      INFO(name << ": " << strings[i]);
      CHECK(tokenizer.encode(strings[i]) == expected[i].get<Ids>());
      ++checked;
    }
  }
  CHECK(checked >= 340);
}

TEST_CASE("tokenizer: variants of the files get the ids of the published library") {
  const json golden = stored("golden_more");
  const auto strings = golden["few"].get<std::vector<std::string>>();
  std::size_t checked = 0;
  for (const json& one : golden["variants"]) {
    INFO(one["patch"].dump());
    const json& normalizer = one["patch"].value("normalizer", json::object());
    if (!can_normalize() && normalizer.value("type", "").starts_with("NF")) continue;
    const Tokenizer tokenizer = changed(one["file"].get<std::string>(), one["patch"]);
    REQUIRE(one["ids"].size() == strings.size());
    for (std::size_t i = 0; i < strings.size(); ++i) {
      INFO(strings[i]);
      CHECK(tokenizer.encode(strings[i]) == one["ids"][i].get<Ids>());
    }
    ++checked;
  }
  CHECK(checked >= 30);
}

TEST_CASE("tokenizer: without utf8proc a file that needs it is refused with the way to get it") {
  if (can_normalize()) {
    CHECK_NOTHROW(Tokenizer(data_folder + "qwen2.json"));
    CHECK(normalized("e\u0301 \u212b", NormalForm::nfc) == "\u00e9 \u00c5");
    CHECK(normalized("\ufb01 \u00e9", NormalForm::nfkd) == "fi e\u0301");
  } else {
    test::check_throws<std::runtime_error>([] { Tokenizer{data_folder + "qwen2.json"}; },
                                           {"'normalizer' must be", "utf8proc", "libutf8proc-dev"});
  }
}

TEST_CASE("tokenizer: cuts are answered by the number of ids that begin before them") {
  const std::vector<std::string> parts{"<s>[INST] the ", "tool",      " of\n\n the", "",
                                       " end<|end|>",    " x \u00e9", "\u4e2d."};
  std::string text;
  std::vector<std::size_t> cuts{0};
  for (const std::string& part : parts) cuts.push_back((text += part).size());
  for (const char* name : {"gpt2", "llama3", "smollm", "llama2", "mistral", "gemma", "phi3"}) {
    INFO(name);
    const Tokenizer tokenizer(data_folder + name + ".json");
    const CutIds cut = tokenizer.encode(text, cuts, "the text");
    CHECK(cut.ids == tokenizer.encode(text));
    REQUIRE(cut.before.size() == cuts.size());
    CHECK(std::ranges::is_sorted(cut.before));
    CHECK(cut.before.front() == 0);
    CHECK(cut.before.back() == cut.ids.size());
    // By the texts of the tokens: what is before a cut covers what is before it, and one less does
    // not. Some tokenizers put a space in front, or take some away: compared without.
    const auto bare = [](std::string bytes) {
      std::erase_if(bytes, [](char c) { return c == ' ' || c == '\n'; });
      return bytes;
    };
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      INFO(i);
      std::string before;
      for (std::size_t t = 0; t < cut.before[i]; ++t) before += tokenizer.text_of(cut.ids[t]);
      const std::string wanted = bare(text.substr(0, cuts[i]));
      CHECK(bare(before).starts_with(wanted));
      if (cut.before[i] == 0) continue;
      std::string less;
      for (std::size_t t = 0; t + 1 < cut.before[i]; ++t) less += tokenizer.text_of(cut.ids[t]);
      CHECK(bare(less).size() <= wanted.size());
    }
  }
}

TEST_CASE("tokenizer: the beginning of a text is that of the post-processor") {
  CHECK(Tokenizer(data_folder + "llama2.json").beginning() == Ids{1});
  CHECK(Tokenizer(data_folder + "gpt2.json").beginning().empty());
  const json sequence{{"post_processor",
                       {{"type", "Sequence"},
                        {"processors",
                         {{{"type", "ByteLevel"}},
                          {{"type", "TemplateProcessing"},
                           {"single",
                            {{{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}},
                             {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
                           {"special_tokens", {{"<|end|>", {{"ids", {501}}}}}}}}}}}};
  CHECK(changed("gpt2", sequence).beginning() == Ids{501});
}

// By hand: tests/data/tokenizer/compare.py compares these ids with the published library's.
TEST_CASE("by hand: ids for compare.py", "[.]") {
  const char* const folder = std::getenv("DROPBP_STRINGS");
  REQUIRE(folder != nullptr);
  const std::string place = std::string(folder) + "/";
  const auto strings =
      json::parse(test::read_bytes(place + "strings.json")).get<std::vector<std::string>>();
  for (const char* name :
       {"gpt2", "llama3", "smollm", "qwen2", "llama2", "mistral", "gemma", "phi3"}) {
    const Tokenizer tokenizer(data_folder + name + ".json");
    std::string lines;
    for (const std::string& text : strings) lines += json(tokenizer.encode(text)).dump() + "\n";
    test::write_bytes(place + name + ".ids", lines);
  }
}

TEST_CASE("tokenizer: text that is not UTF-8 is an error that names the position") {
  const Tokenizer tokenizer(data_folder + "gpt2.json");
  const std::vector<std::pair<std::string, std::string>> bad{
      {"abc\xff", "byte 3 (0xFF)"},
      {"\x80", "byte 0 (0x80)"},
      {"a\xc3", "byte 1 (0xC3)"},
      {"\xc1\x81", "byte 0 (0xC1)"},
      {"\xc3\xa9\xe0\x9f\xbf", "byte 2 (0xE0)"},
      {"\xed\xa0\x80", "byte 0 (0xED)"},
      {"\xf0\x8f\xbf\xbf", "byte 0"},
      {"\xf4\x90\x80\x80", "byte 0"},
      {"\xf5\x80\x80\x80", "byte 0 (0xF5)"},
      {"\xe2\x82"
       "a",
       "byte 0"},
      {"\xf0\x9f\x98", "byte 0"},
      {"\xf0\x9f\x98"
       "a",
       "byte 0"}};
  for (const auto& [text, place] : bad) {
    INFO(place);
    test::check_throws<std::runtime_error>(
        [&, &bytes = text] { (void)tokenizer.encode(bytes, "'f'"); },
        {"'f' must be UTF-8", place, "convert it"});
  }
  CHECK_NOTHROW(
      check_utf8("\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80"
                 "\x80\xf4\x8f\xbf\xbf",
                 "all ends"));
}

TEST_CASE("tokenizer: an unsupported setting of a file is an error that names the key") {
  const auto fails = [](const char* name, const json& patch, std::vector<std::string> parts) {
    parts.emplace_back("--tokens");
    INFO(patch.dump());
    std::string message = "nothing was thrown";
    try {
      (void)changed(name, patch);
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    for (const std::string& part : parts) CHECK_THAT(message, contains(part));
  };
  const auto model = [&](const json& patch, std::vector<std::string> parts) {
    fails("gpt2", {{"model", patch}}, std::move(parts));
  };
  model({{"type", "WordPiece"}}, {"t.json': 'model.type' must be BPE", "\"WordPiece\""});
  model({{"vocab", nullptr}}, {"'model.vocab'", "missing or null"});
  model({{"merges", "a b"}}, {"'model.merges' must be a list"});
  model({{"merges", {"a b", "a b c"}}}, {"'model.merges[0]'", "of 'ab'"});
  model({{"merges", {"i n", "i n g"}}}, {"'model.merges[1]' must be two tokens", "i n g"});
  model({{"merges", {"in"}}}, {"'model.merges[0]' must be two tokens"});
  model({{"dropout", 0.1}}, {"'model.dropout' must be null", "0.1"});
  model({{"continuing_subword_prefix", "##"}},
        {"'model.continuing_subword_prefix' must be empty", "##"});
  model({{"end_of_word_suffix", "</w>"}}, {"'model.end_of_word_suffix'"});
  model({{"byte_fallback", true}}, {"'model.byte_fallback' must be false"});
  model({{"ignore_merges", 1}}, {"'model.ignore_merges' must be true or false", "is 1"});
  model({{"vocab", {{"in", -1}}}}, {"'model.vocab.in' must be an id", "-1"});
  model({{"vocab", {{"in", 3}}}}, {"'model.vocab.", "an id of its own", "is 3"});
  fails("gpt2", {{"normalizer", {{"type", "Lowercase"}}}}, {"'normalizer.type' must be", "Lower"});
  fails("gpt2", {{"normalizer", {{"type", "Replace"}, {"content", "x"}}}},
        {"'normalizer.pattern' must be", "missing"});
  fails("gpt2", {{"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "x"}}}}}}},
        {"'normalizer.normalizers[0].type' must be"});
  fails("gpt2", {{"pre_tokenizer", {{"type", "Whitespace"}}}},
        {"'pre_tokenizer.type'", "Whitespace"});
  fails("mistral", {{"pre_tokenizer", {{"replacement", "ab"}}}},
        {"'pre_tokenizer.replacement' must be one character"});
  fails("mistral", {{"pre_tokenizer", {{"prepend_scheme", "last"}}}},
        {"'pre_tokenizer.prepend_scheme' must be"});
  fails("llama2", {{"model", {{"unk_token", "<none>"}}}}, {"'model.unk_token' must be a token"});
  fails("llama2", {{"post_processor", {{"special_tokens", {{"<s>", {{"ids", {9999}}}}}}}}},
        {"'post_processor' must be", "9999"});
  const json split{{"type", "Split"},
                   {"pattern", {{"Regex", "a"}}},
                   {"behavior", "Isolated"},
                   {"invert", false}};
  CHECK_NOTHROW(changed("llama3", with_split(split)));
  const auto split_with = [&](const json& patch) {
    json copy = split;
    copy.merge_patch(patch);
    return with_split(copy);
  };
  fails("llama3", split_with({{"behavior", "Gone"}}),
        {"'pre_tokenizer.pretokenizers[0].behavior' must be", "Isolated", "Gone"});
  fails("llama3", split_with({{"invert", 1}}), {"[0].invert' must be true or false"});
  fails("llama3", split_with({{"pattern", {{"Regex", nullptr}, {"String", ""}}}}),
        {"[0].pattern' must be a String that is not empty or a Regex"});
  fails("llama3", split_with({{"pattern", {{"Regex", "\\w+"}}}}),
        {"'pre_tokenizer.pretokenizers[0].pattern': a pattern must", "\\w"});
  fails("llama3", with_split({{"type", "ByteLevel"}}),
        {"'pre_tokenizer.pretokenizers[1]' must be absent behind ByteLevel"});
  const auto token = [](const json& patch) {
    json one{{"id", 505}, {"content", "<new>"}};
    one.merge_patch(patch);
    return json{{"added_tokens", {one}}};
  };
  fails("smollm", token(json::object()), {"'added_tokens[0].id' must be 500", "505"});
  CHECK(changed("smollm", token({{"id", 500}})).encode("a<new>").back() == 500);
  fails("smollm", token({{"id", 500}, {"content", ""}}), {"'added_tokens[0].content'"});
  fails("smollm", token({{"id", 500}, {"lstrip", "left"}}),
        {"'added_tokens[0].lstrip' must be true or false"});
  fails("smollm", token({{"id", 500}, {"content", "in"}}), {"'added_tokens[0].id' must be"});
  // A byte without a token only matters in a text that has it.
  const Tokenizer lacking =
      changed("smollm", {{"added_tokens", nullptr}, {"model", {{"vocab", {{"\u0100", nullptr}}}}}});
  CHECK_NOTHROW(lacking.encode("abc"));
  test::check_throws<std::runtime_error>([&] { (void)lacking.encode(std::string("a\0", 2)); },
                                         {"0x00", "--tokens"});
}

TEST_CASE("tokenizer: patterns mean the same as in Oniguruma, or are refused") {
  for (const char* bad :
       {"\\d",     "\\w+",     "\\bx",    ".",    "^a",     "a$",      "[[:alpha:]]", "[a&&b]",
        "[\\S]",   "\\p{Han}", "\\p{^L}", "\\pL", "\\P{L}", "(?<=a)b", "(?<n>a)",     "(?i)a",
        "(*UTF)a", "a{,3}b",   "a{2}+",   "a{",   "[]a]",   "\\x41",   "\\"}) {
    INFO(bad);
    test::check_throws<std::runtime_error>([&] { Regex{bad}; },
                                           {"a pattern must consist of", bad, "--tokens"});
  }
  test::check_throws<std::runtime_error>([] { Regex("a*"); }, {"no empty text", "'a*'"});
  test::check_throws<std::runtime_error>([] { Regex("(a"); }, {"'(a' gives", "parenthesis"});
  const auto first = [](const char* pattern, std::string_view text) {
    const auto match = Regex(pattern).find(text, 0);
    return match ? std::string(text.substr(match->begin, match->end - match->begin)) : "no match";
  };
  // U+180E is PCRE2's white space, but not Unicode's.
  CHECK(first("\\s", "\u180e") == "no match");
  CHECK(first("\\S", "\u180e") == "\u180e");
  CHECK(first("[^\\s]", "\u0085\u180e") == "\u180e");
  CHECK(first("\\s+", "a\t\u0085\u00a0\u2003\u3000b") == "\t\u0085\u00a0\u2003\u3000");
  CHECK(first("(?i:'s)", "'\u017f") == "'\u017f");
  CHECK(first("[\\p{Lu}\\x{61}]{2,3}", "bXaXX") == "XaX");
  CHECK(first("a(?!b)|[\\]\\-]+", "ab-]a") == "-]");
}

TEST_CASE("tokenizer: the time for long runs is not quadratic") {
  // Quadratic would be hours: past the limit of any test.
  const Tokenizer tokenizer(data_folder + "llama3.json");
  constexpr std::size_t size = 1'000'000;
  for (const char letter : {'a', '=', ' ', '\n', '<'}) {
    const Ids ids = tokenizer.encode(std::string(size, letter));
    CHECK(ids.size() > size / 200);
    CHECK(ids.size() <= size);
  }
}

TEST_CASE("tokenizer: text files and folders") {
  const TemporaryFolder folder;
  const Tokenizer tokenizer(data_folder + "smollm.json");
  const DataOptions options{.vocabulary = tokenizer.vocabulary(), .validation_fraction = 0.0};
  const auto ids = [&](const std::filesystem::path& path, const DataOptions& with) {
    const TokenData data = TokenData::from_text(path, with, &tokenizer);
    return Ids(data.train().begin(), data.train().end());
  };
  test::write_bytes(folder / "a", "the \u00e9\U0001f600");
  CHECK(ids(folder / "a", options) == tokenizer.encode("the \u00e9\U0001f600"));
  // A character that the limit cuts is left out.
  for (const auto& [limit, text] :
       {std::pair(5, "the "), std::pair(6, "the \u00e9"), std::pair(7, "the \u00e9"),
        std::pair(9, "the \u00e9"), std::pair(10, "the \u00e9\U0001f600")}) {
    INFO(limit);
    DataOptions cut = options;
    cut.max_bytes = static_cast<std::uintmax_t>(limit);
    CHECK(ids(folder / "a", cut) == tokenizer.encode(text));
    CHECK(ids(folder.path(), cut) == tokenizer.encode(text));
  }
  // No word goes on over the end of a file.
  test::write_bytes(folder / "b", " templ");
  test::write_bytes(folder / "c", "ate");
  const auto joined = [&](std::initializer_list<const char*> texts, const Ids& between) {
    Ids all;
    for (const char* text : texts) {
      if (!all.empty()) all.insert(all.end(), between.begin(), between.end());
      const Ids one = tokenizer.encode(text);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  };
  CHECK(ids(folder.path(), options) == joined({"the \u00e9\U0001f600\n", " templ\n", "ate"}, {}));
  DataOptions ends = options;
  ends.end_of_text = EndOfText{.id = 501, .source = "the test"};
  CHECK(ids(folder.path(), ends) == joined({"the \u00e9\U0001f600", " templ", "ate"}, {501}));
  CHECK(tokenizer.id_of("<|end|>") == 501);
  CHECK(tokenizer.id_of("<tool>") == 504);
  CHECK(tokenizer.id_of("a") == tokenizer.encode("a").front());
  CHECK_FALSE(tokenizer.id_of("<|none|>"));
  test::write_bytes(folder / "binary", std::string("\xff\0", 2));
  CHECK_NOTHROW(ids(folder.path(), options));
  test::write_bytes(folder / "d", "ab\xff");
  test::check_throws<std::runtime_error>([&] { ids(folder.path(), options); }, {"/d'", "byte 2"});
  test::check_throws<std::runtime_error>([&] { ids(folder / "d", options); }, {"/d'", "byte 2"});
  DataOptions small = options;
  small.vocabulary = 200;
  test::check_throws<std::runtime_error>([&] { ids(folder / "a", small); }, {"vocabulary of 200"});
}

TEST_CASE("tokenizer: a written model gets the tokenizer that encoded the text") {
  const TemporaryFolder folder;
  const std::string model = (folder / "model").string(), out = (folder / "out").string();
  std::string text;
  for (int i = 0; i < 200; ++i) text += "for (int i = 0; i < 10; ++i) sum += values[i];\n";
  test::write_bytes(folder / "text", text);
  const auto run = [&](const std::string& more) {
    return std::system((DROPBP_LLAMA_FINETUNE " --data '" + (folder / "text").string() +
                        "' --batch 1 --sequence 8 --steps 1 --threads 1 " + more + " > '" +
                        (folder / "output").string() + "' 2>&1")
                           .c_str());
  };
  const std::string other = data_folder + "gpt2.json", own = data_folder + "smollm.json";
  REQUIRE(run("--layers 1 --hidden 8 --intermediate 8 --heads 1 --vocabulary 1000 --tokenizer '" +
              own + "' --out '" + model + "'") == 0);
  test::write_bytes(folder / "model/tokenizer.json", test::read_bytes(own));
  test::write_bytes(folder / "model/tokenizer_config.json", "{}");
  test::write_bytes(folder / "model/vocab.json", "{}");
  test::write_bytes(folder / "model/generation_config.json", "{}");
  const auto has = [&](const char* name) { return std::filesystem::exists(folder / "out" / name); };

  CHECK(run("--model '" + model + "' --out '" + out + "' --tokenizer '" + own + "'") == 0);
  CHECK((test::read_bytes(folder / "out/tokenizer.json") == test::read_bytes(own)));
  CHECK(has("tokenizer_config.json"));
  CHECK(has("vocab.json"));

  std::filesystem::remove_all(out);
  CHECK(run("--model '" + model + "' --out '" + out + "' --tokenizer '" + other + "'") == 0);
  CHECK((test::read_bytes(folder / "out/tokenizer.json") == test::read_bytes(other)));
  CHECK_FALSE(has("tokenizer_config.json"));
  CHECK_FALSE(has("vocab.json"));
  CHECK(has("generation_config.json"));
}

TEST_CASE("tokenizer: the program takes the vocabulary from it, or refuses a smaller one") {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) text += "for (int i = 0; i < 10; ++i) sum += values[i];\n";
  test::write_bytes(folder / "text", text);
  const auto run = [&](const std::string& more) {
    return std::system((DROPBP_LLAMA_FINETUNE " --data '" + (folder / "text").string() +
                        "' --tokenizer '" + data_folder +
                        "gpt2.json' --layers 1 --hidden 8 --intermediate 8 --heads 1 --batch 1 "
                        "--sequence 8 --steps 1 --threads 1 --quiet --report '" +
                        (folder / "report").string() + "' " + more + " > '" +
                        (folder / "output").string() + "' 2>&1")
                           .c_str());
  };
  CHECK(run("") == 0);
  const json config = json::parse(test::read_bytes(folder / "report"))["config"];
  CHECK(config["model"]["vocabulary"] == 505);
  CHECK(config["tokenizer"] == data_folder + "gpt2.json");
  CHECK(run("--vocabulary 600") == 0);
  CHECK(json::parse(test::read_bytes(folder / "report"))["config"]["model"]["vocabulary"] == 600);
  CHECK(run("--vocabulary 504") != 0);
  const std::string message = test::read_bytes(folder / "output");
  for (const char* part :
       {"its vocabulary is 504", "gpt2.json' has ids up to 504", "leave --vocabulary out"})
    CHECK_THAT(message, contains(part));
}
