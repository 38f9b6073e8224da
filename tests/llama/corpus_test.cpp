// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The choice of the tokenizer and of the token between documents.
#include "llama/app/corpus.hpp"

#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "llama/app/samples.hpp"
#include "llama/files.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/regex.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using Ids = std::vector<std::int32_t>;

// A model's folder, with or without a tokenizer, and a text.
struct Place {
  Place() {
    test::write_bytes(folder / "text/a.txt", "the tool");
    test::write_bytes(folder / "text/b.txt", "the end");
    std::filesystem::create_directory(folder / "model");
    options.data = folder / "text/a.txt";
    options.model = folder / "model";
    options.validation_fraction = 0.0;
  }
  void give_tokenizer(std::string_view to, std::string_view which) const {
    test::write_bytes(folder / to / "tokenizer.json",
                      test::read_bytes(DROPBP_TEST_DATA "/tokenizer/" + std::string(which)));
  }
  Corpus load(std::ptrdiff_t vocabulary) const {
    LlamaConfig config;
    config.vocabulary = vocabulary;
    return load_corpus(options, config);
  }
  void fails(std::ptrdiff_t vocabulary, std::initializer_list<std::string_view> parts) const {
    test::check_throws<std::runtime_error>([&] { (void)load(vocabulary); }, parts);
  }

  test::TemporaryFolder folder;
  Options options;
};

const TokenData& text_of(const Corpus& corpus) {
  return dynamic_cast<const TokenData&>(*corpus.data);
}

Ids ids_of(const Corpus& corpus) {
  const auto train = text_of(corpus).train();
  return {train.begin(), train.end()};
}

}  // namespace

TEST_CASE("corpus: bytes are for a model with a vocabulary of 256") {
  const Place place;
  const Corpus corpus = place.load(256);
  CHECK(ids_of(corpus) == Ids{'t', 'h', 'e', ' ', 't', 'o', 'o', 'l'});
  CHECK_FALSE(corpus.tokenizer);
  CHECK(corpus.notes.empty());
  place.fails(512, {"vocabulary of 256", "has 512", "no tokenizer.json", "--tokenizer", "--tokens",
                    Regex::available() ? "" : "no PCRE2"});
  // A new model may have more ids than the tokenizer.
  Place fresh;
  fresh.options.model.reset();
  CHECK(ids_of(fresh.load(512)) == ids_of(corpus));
}

TEST_CASE("corpus: a model that is only merged or converted needs no text and no tokenizer") {
  Place place;
  place.options.data.reset();
  place.fails(512, {"no tokenizer.json"});
  place.options.steps = 0;
  const Corpus corpus = place.load(512);
  CHECK(text_of(corpus).validation().empty());
  CHECK_NOTHROW(
      BatchSampler(text_of(corpus).train(), place.options.batch, place.options.sequence, 1));
  REQUIRE(corpus.notes.size() == 1);
  CHECK_THAT(corpus.notes[0], contains("no validation"));
  test::write_bytes(place.folder / "model/tokenizer.json", "{\"model\": {\"type\": \"Unigram\"}}");
  CHECK(text_of(place.load(512)).validation().empty());
  place.options.data = place.folder / "text";
  place.fails(512, {Regex::available() ? "tokenizer.json': 'model.type'" : "libpcre2-dev"});
  test::write_bytes(place.folder / "model/tokenizer.json",
                    "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n");
  place.fails(512, {Regex::available() ? "but it is a Git LFS pointer" : "libpcre2-dev"});
}

TEST_CASE("corpus: ids of --tokens need no tokenizer") {
  Place place;
  place.give_tokenizer("model", "smollm.json");
  place.options.data.reset();
  place.options.tokens = place.folder / "t.u16";
  test::write_bytes(place.folder / "t.u16", std::string("\1\0\2\0", 4));
  const Corpus corpus = place.load(600);
  CHECK(ids_of(corpus) == Ids{1, 2});
  CHECK_FALSE(corpus.tokenizer);
  place.fails(2, {"t.u16'", "position 1 is 2"});
}

TEST_CASE("corpus: the tokenizer in the model's folder is used and named") {
  Place place;
  place.give_tokenizer("model", "smollm.json");
  if (!Regex::available()) {
    place.fails(506, {"its own tokenizer", "model/tokenizer.json'", "without", "libpcre2-dev"});
    return;
  }
  const Corpus corpus = place.load(506);
  CHECK(ids_of(corpus).size() < 8);
  CHECK(corpus.tokenizer == place.folder / "model/tokenizer.json");
  REQUIRE(corpus.notes.size() == 1);
  CHECK_THAT(corpus.notes[0], contains("model/tokenizer.json', as none was given"));
  place.fails(256, {"its vocabulary is 256", "ids up to 505"});

  // The same tokenizer given by --tokenizer adds no note; another one does.
  place.options.tokenizer = place.folder / "model/tokenizer.json";
  CHECK(ids_of(place.load(506)) == ids_of(corpus));
  CHECK(place.load(506).notes.empty());
  place.give_tokenizer("copy", "smollm.json");
  place.options.tokenizer = place.folder / "copy/tokenizer.json";
  CHECK(place.load(506).notes.empty());
  place.give_tokenizer("other", "gpt2.json");
  place.options.tokenizer = place.folder / "other/tokenizer.json";
  const Corpus other = place.load(506);
  CHECK(other.tokenizer == place.options.tokenizer);
  REQUIRE(other.notes.size() == 1);
  CHECK_THAT(other.notes[0], contains("other/tokenizer.json', as given, and differs from"));
  CHECK_THAT(other.notes[0], contains("model/tokenizer.json'"));

  // The adapter's folder has one where the model's has none.
  Place adapted;
  adapted.options.adapter = adapted.folder / "adapter";
  adapted.give_tokenizer("adapter", "smollm.json");
  CHECK(adapted.load(506).tokenizer == adapted.folder / "adapter/tokenizer.json");
  CHECK(ids_of(adapted.load(506)) == ids_of(corpus));
}

TEST_CASE("corpus: documents are separated by the token that ends a text") {
  if (!Regex::available()) return;  // without tokenizers there are newlines alone: data_test.cpp
  Place place;
  place.give_tokenizer("model", "smollm.json");
  const Ids first = ids_of(place.load(506));
  place.options.data = place.folder / "text";
  const auto separator = [&](std::string_view source) {
    const Corpus corpus = place.load(506);
    REQUIRE(corpus.notes.size() == 2);
    CHECK_THAT(corpus.notes[1], contains("the 2 documents of"));
    CHECK_THAT(corpus.notes[1], contains(std::string(source)));
    return ids_of(corpus).at(first.size());
  };
  separator("by newlines");
  const auto write = [&](const char* file, const char* text) {
    test::write_bytes(place.folder / "model" / file, text);
  };
  write("config.json", R"({"eos_token_id": 500})");
  CHECK(separator("the token 500, 'eos_token_id' of") == 500);
  write("config.json", R"({"eos_token_id": [503, 500]})");
  CHECK(separator("the token 503, 'eos_token_id' of") == 503);
  write("tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  CHECK(separator("the token 501, 'eos_token' of") == 501);
  write("tokenizer_config.json", R"({"eos_token": {"content": "<tool>", "special": true}})");
  CHECK(separator("the token 504, 'eos_token' of") == 504);
  write("tokenizer_config.json", R"({"eos_token": "<|none|>"})");  // not one of the tokenizer
  CHECK(separator("the token 503, 'eos_token_id' of") == 503);
  write("config.json", R"({"eos_token_id": 506})");
  separator("by newlines");
}

TEST_CASE("corpus: after an interrupted save, the end-of-text token is that of the new model") {
  if (!Regex::available()) return;
  Place place;
  place.options.data = place.folder / "text";
  const std::filesystem::path model = place.folder / "model";
  const auto save = [&](int end, const char* token) {
    Companions companions;
    companions.config = std::string("{\"eos_token_id\":") + std::to_string(end) + "}";
    companions.files = {
        {"tokenizer.json", test::read_bytes(DROPBP_TEST_DATA "/tokenizer/smollm.json")},
        {"tokenizer_config.json", std::string("{\"eos_token\":\"") + token + "\"}"}};
    std::vector<float> norm(2, static_cast<float>(end));
    const NamedTensor tensor{.name = "model.norm.weight", .shape = {2}, .values = norm};
    save_model_folder(model, LlamaConfig{}, {&tensor, 1}, DType::f32, default_shard_bytes,
                      companions);
  };
  // A kill before a rename leaves the new file under its temporary name.
  const auto cut = [&](const std::string& name, const std::string& old) {
    std::filesystem::rename(model / name, model / (name + ".1-00000000.tmp"));
    test::write_bytes(model / name, old);
  };
  const auto note = [&] {
    const Corpus corpus = place.load(506);
    REQUIRE(corpus.notes.size() == 2);
    return corpus.notes[1];
  };
  save(500, "<|end|>");
  const std::string old_token = test::read_bytes(model / "tokenizer_config.json");
  save(500, "<tool>");
  cut("tokenizer_config.json", old_token);
  CHECK_THAT(note(), contains("the token 504, 'eos_token' of"));

  save(500, "<|none|>");
  const std::string old_config = test::read_bytes(model / "config.json");
  save(503, "<|none|>");
  cut("config.json", old_config);
  CHECK_THAT(note(), contains("the token 503, 'eos_token_id' of"));
}

TEST_CASE("corpus: JSON lines are samples, whatever says so") {
  Place place;
  const std::string lines = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
  const auto samples_of = [&](const char* file) {
    place.options.data = place.folder / file;
    const Corpus corpus = place.load(256);
    const auto* const samples = dynamic_cast<const SampleData*>(corpus.data.get());
    return samples == nullptr ? std::size_t{0} : samples->train().size();
  };
  test::write_bytes(place.folder / "one.jsonl", lines);
  test::write_bytes(place.folder / "two.json", lines + lines);
  test::write_bytes(place.folder / "all/x/three.ndjson", lines + lines + lines);
  test::write_bytes(place.folder / "all/notes.txt", "text");
  CHECK(samples_of("one.jsonl") == 1);
  CHECK(samples_of("two.json") == 2);
  CHECK(samples_of("all") == 3);
  CHECK(samples_of("text") == 0);
  CHECK(samples_of("text/a.txt") == 0);
}

TEST_CASE("corpus: what is about samples is refused for running text") {
  for (const auto& [set, flag] :
       {std::pair<void (*)(Options&), const char*>{[](Options& o) { o.loss_on = LossChoice::all; },
                                                   "--loss-on"},
        {[](Options& o) { o.long_samples = LongSamples::skip; }, "--long-samples"},
        {[](Options& o) { o.chat_template = "chatml"; }, "--chat-template"},
        {[](Options& o) { o.no_packing = true; }, "--no-packing"}}) {
    Place place;
    set(place.options);
    place.fails(256, {flag, "is about samples", "a.txt' is running text", "JSON lines"});
  }
}

TEST_CASE("corpus: a template is asked for only where a sample needs it, and shown in a table") {
  if (!Regex::available()) return;  // tokenizer_test is counted as skipped then
  Place place;
  place.give_tokenizer("model", "llama2.json");
  test::write_bytes(place.folder / "model/tokenizer_config.json",
                    R"({"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ 1 }}"})");
  test::write_bytes(place.folder / "text.jsonl",
                    "{\"prompt\": \"the\", \"completion\": \" end\"}\n");
  test::write_bytes(place.folder / "chat.jsonl",
                    R"({"messages": [{"role": "user", "content": "the"},)"
                    R"({"role": "assistant", "content": "end"}]})"
                    "\n");
  place.options.show_sample = true;
  place.options.data = place.folder / "text.jsonl";
  const std::string table = place.load(1000).first_sample;
  CHECK_THAT(table, contains("0       1  -        \"<s>\""));
  CHECK_THAT(table, contains("2  yes      \"</s>\""));
  place.options.data = place.folder / "chat.jsonl";
  place.fails(1000, {"the chat template of", "must be one that this program knows", "7 bytes"});
  place.options.chat_template = "llama2";
  CHECK_THAT(place.load(1000).first_sample, contains("yes      \"</s>\""));
  place.options.chat_template = "chatmm";
  place.fails(1000, {"must be one of", "'chatmm'"});
}
