// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// GGUF files, read back by a reader of their own that knows the format's description alone. The
// script tests/data/gguf/check_gguf.py reads the same files with the published reader.
#include "llama/formats/gguf.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "llama/files.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/gguf_model.hpp"
#include "llama/formats/gguf_tokenizer.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/model/model.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;

struct ReadTensor {
  std::vector<std::uint64_t> sizes;  // the fastest first
  std::uint32_t type;
  std::string bytes;
};

/// Values are kept as text, arrays as their elements with a '|' behind each.
class Gguf {
 public:
  explicit Gguf(std::string bytes) : bytes_(std::move(bytes)) {
    REQUIRE(bytes_.substr(0, 4) == "GGUF");
    at_ = 4;
    REQUIRE(take<std::uint32_t>() == 3);
    const auto count = take<std::uint64_t>(), keys = take<std::uint64_t>();
    for (std::uint64_t i = 0; i < keys; ++i) {
      const std::string key = text();
      CHECK(values.emplace(key, value(take<std::uint32_t>())).second);
    }
    std::map<std::string, std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::string name = text();
      ReadTensor& tensor = tensors[name];
      for (auto n = take<std::uint32_t>(); n > 0; --n)
        tensor.sizes.push_back(take<std::uint64_t>());
      tensor.type = take<std::uint32_t>();
      offsets[name] = take<std::uint64_t>();
      CHECK(offsets[name] % 32 == 0);
    }
    at_ = (at_ + 31) / 32 * 32;
    for (auto& [name, tensor] : tensors) {
      std::uint64_t size = tensor.type == 0 ? 4 : 2;
      for (const auto n : tensor.sizes) size *= n;
      REQUIRE(at_ + offsets[name] + size <= bytes_.size());
      tensor.bytes = bytes_.substr(at_ + offsets[name], size);
    }
  }

  std::map<std::string, std::string> values;
  std::map<std::string, ReadTensor> tensors;

  std::vector<float> floats(const std::string& name) const {
    const ReadTensor& tensor = tensors.at(name);
    std::vector<float> numbers(tensor.bytes.size() / (tensor.type == 0 ? 4 : 2));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      std::uint16_t narrow = 0;
      if (tensor.type == 0)
        std::memcpy(&numbers[i], tensor.bytes.data() + 4 * i, 4);
      else
        std::memcpy(&narrow, tensor.bytes.data() + 2 * i, 2);
      if (tensor.type == 1) numbers[i] = half_to_float(narrow);
      if (tensor.type == 30) numbers[i] = bfloat16_to_float(narrow);
    }
    return numbers;
  }

 private:
  template <class Number>
  Number take() {
    Number number{};
    REQUIRE(at_ + sizeof number <= bytes_.size());
    std::memcpy(&number, bytes_.data() + at_, sizeof number);
    at_ += sizeof number;
    return number;
  }
  std::string text() {
    const auto size = take<std::uint64_t>();
    REQUIRE(at_ + size <= bytes_.size());
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  std::string value(std::uint32_t type) {
    switch (type) {
      case 4:
        return std::to_string(take<std::uint32_t>());
      case 5:
        return std::to_string(take<std::int32_t>());
      case 6:
        return std::to_string(take<float>());
      case 7:
        return take<std::uint8_t>() != 0 ? "true" : "false";
      case 8:
        return text();
      case 9: {
        const auto inner = take<std::uint32_t>();
        std::string all;
        for (auto n = take<std::uint64_t>(); n > 0; --n) all += value(inner) + "|";
        return all;
      }
      default:
        FAIL("an unknown type " << type);
        return "";
    }
  }

  std::string bytes_;
  std::size_t at_ = 0;
};

constexpr const char* gpt2_like =
    R"({"version":"1.0","added_tokens":[{"id":3,"content":"<|end|>","special":true}],
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
        "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";

}  // namespace

TEST_CASE("gguf: every kind of value, and tensors at their places, to the byte") {
  const test::TemporaryFolder folder;
  const auto fill = [](std::span<float> values) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 1.5f;
  };
  write_gguf(folder / "a.gguf",
             {{"u", std::uint32_t{7}},
              {"f", 0.5f},
              {"yes", true},
              {"text", std::string("g\xc3\xbc")},
              {"texts", std::vector<std::string>{"", "x"}},
              {"ints", std::vector<std::int32_t>{-1, 2}},
              {"floats", std::vector<float>{}}},
             std::vector<GgufTensor>{{"m", {2, 3}, DType::f32, fill},
                                     {"h", {5}, DType::f16, fill},
                                     {"b", {3}, DType::bf16, fill}});
  const std::string bytes = test::read_bytes(folder / "a.gguf");
  const Gguf file(bytes);
  CHECK(file.values == std::map<std::string, std::string>{{"u", "7"},
                                                          {"f", "0.500000"},
                                                          {"yes", "true"},
                                                          {"text", "g\xc3\xbc"},
                                                          {"texts", "|x|"},
                                                          {"ints", "-1|2|"},
                                                          {"floats", ""}});
  CHECK(file.tensors.at("m").sizes == std::vector<std::uint64_t>{3, 2});
  CHECK(file.floats("m") == std::vector<float>{-1.5, -0.5, 0.5, 1.5, 2.5, 3.5});
  CHECK(file.tensors.at("h").type == 1);
  CHECK(file.floats("h") == std::vector<float>{-1.5, -0.5, 0.5, 1.5, 2.5});
  CHECK(file.tensors.at("b").type == 30);
  CHECK(file.floats("b") == std::vector<float>{-1.5, -0.5, 0.5});
  CHECK(bytes.size() % 32 == 0);
  // The begin of the file, by hand.
  CHECK(
      bytes.starts_with(std::string_view("GGUF\3\0\0\0\3\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0"
                                         "\1\0\0\0\0\0\0\0u\4\0\0\0\7\0\0\0",
                                         41)));
}

TEST_CASE("gguf: what cannot be written leaves the old file") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "a.gguf", "old");
  const auto with = [](float value) {
    return [value](std::span<float> values) { std::ranges::fill(values, value); };
  };
  const auto write = [&](DType dtype, float value) {
    write_gguf(folder / "a.gguf", {}, std::vector<GgufTensor>{{"t", {4}, dtype, with(value)}});
  };
  test::check_throws<std::runtime_error>([&] { write(DType::f16, 1e6f); }, {"'t'", "1000000"});
  // BF16 has the exponents of F32, but its largest number is smaller: this rounds to infinity.
  test::check_throws<std::runtime_error>([&] { write(DType::bf16, 0x1.ffp127f); },
                                         {"BF16", "'t'", "--out-dtype f32"});
  test::check_throws<std::runtime_error>(
      [&] { write(DType::f32, std::numeric_limits<float>::infinity()); }, {"'t' is infinite"});
  CHECK_THROWS_AS(write(DType::f64, 1.0f), std::invalid_argument);
  CHECK(test::read_bytes(folder / "a.gguf") == "old");
}

TEST_CASE("gguf: a model has llama.cpp's names, its order of rows, and all its sizes") {
  const test::TemporaryFolder folder;
  const std::string tiny = DROPBP_TEST_DATA "/llama-tiny";
  const LlamaConfig config = load_config(tiny);
  LlamaModel<float> model(config, 8);
  load_weights(tiny, model);
  std::string texts;
  for (std::ptrdiff_t i = 4; i < config.vocabulary; ++i) texts += "[PAD" + std::to_string(i) + "]|";
  Companions companions;
  companions.files["tokenizer.json"] = gpt2_like;
  companions.files["tokenizer_config.json"] =
      R"({"eos_token":{"content":"<|end|>"},"chat_template":"{{ a }}"})";
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    save_gguf(folder / "m.gguf", config, merged_tensors(model), dtype, companions);
    const Gguf file(test::read_bytes(folder / "m.gguf"));
    CHECK(file.values.at("general.architecture") == "llama");
    CHECK(file.values.at("llama.block_count") == std::to_string(config.layers));
    CHECK(file.values.at("llama.attention.head_count_kv") == std::to_string(config.kv_heads));
    CHECK(file.values.at("llama.rope.dimension_count") == std::to_string(config.head_size()));
    CHECK(file.values.at("tokenizer.ggml.model") == "gpt2");
    CHECK(file.values.at("tokenizer.ggml.pre") == "gpt-2");
    CHECK(file.values.at("tokenizer.ggml.tokens") == "a|b|ab|<|end|>|" + texts);
    CHECK(file.values.at("tokenizer.ggml.token_type").starts_with("1|1|1|3|5|"));
    CHECK(file.values.at("tokenizer.ggml.merges") == "a b|");
    CHECK(file.values.at("tokenizer.ggml.eos_token_id") == "3");
    CHECK(file.values.at("tokenizer.chat_template") == "{{ a }}");
    const std::size_t tensors = 9 * static_cast<std::size_t>(config.layers) + 3;
    CHECK(file.tensors.size() == tensors - (config.tie_embeddings ? 1 : 0));
    const auto tolerance = dtype == DType::f32 ? 0.0 : dtype == DType::f16 ? 1e-3 : 8e-3;
    const auto near = [&](float a, float b) { return std::abs(a - b) <= tolerance * std::abs(a); };
    const auto half = static_cast<std::size_t>(config.head_size() / 2),
               columns = static_cast<std::size_t>(config.hidden);
    std::size_t rotated = 0;
    model.for_each_weight([&](const auto& weight) {
      const std::string& name = weight.name;
      if (!name.starts_with("model.layers.1.")) return;
      const bool q = name.ends_with("q_proj.weight"), k = name.ends_with("k_proj.weight");
      if (q || k) {
        const auto got = file.floats(q ? "blk.1.attn_q.weight" : "blk.1.attn_k.weight");
        for (Index row = 0; row < weight.rows; ++row) {
          const auto r = static_cast<std::size_t>(row), head = r / (2 * half), i = r % (2 * half);
          const std::size_t to = head * 2 * half + (i < half ? 2 * i : 2 * (i - half) + 1);
          for (std::size_t j = 0; j < columns; ++j)
            if (!near(weight.value[r * columns + j], got[to * columns + j])) FAIL(name << row);
        }
        ++rotated;
      }
      if (name.ends_with("down_proj.weight")) {
        const auto got = file.floats("blk.1.ffn_down.weight");
        CHECK(file.tensors.at("blk.1.ffn_down.weight").sizes ==
              std::vector<std::uint64_t>{static_cast<std::uint64_t>(config.intermediate), columns});
        for (std::size_t i = 0; i < got.size(); ++i)
          if (!near(weight.value[i], got[i])) FAIL(name << i);
      }
      if (name.ends_with("input_layernorm.weight"))
        CHECK(file.tensors.at("blk.1.attn_norm.weight").type == 0);
    });
    CHECK(rotated == 2);
  }
}

TEST_CASE("gguf: tokenizers get the name that llama.cpp knows them by") {
  const auto pre = [](const std::string& pre_tokenizer) {
    Companions companions;
    companions.files["tokenizer.json"] = R"({"pre_tokenizer":)" + pre_tokenizer +
                                         R"(,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})";
    for (const auto& [key, value] : gguf_tokenizer(companions, 1))
      if (key == "tokenizer.ggml.pre") return std::get<std::string>(value);
    return std::string();
  };
  for (const auto& [file, name] :
       {std::pair("llama3", "llama-bpe"), {"smollm", "smollm"}, {"qwen2", "qwen2"}}) {
    Companions companions;
    companions.files["tokenizer.json"] =
        test::read_bytes(DROPBP_TEST_DATA "/tokenizer/" + std::string(file) + ".json");
    REQUIRE(!companions.files["tokenizer.json"].empty());
    const GgufMetadata metadata = gguf_tokenizer(companions, 100000);
    CAPTURE(file);
    CHECK(std::get<std::string>(metadata.at(1).second) == name);
  }
  CHECK(pre(R"({"type":"ByteLevel","add_prefix_space":false})") == "gpt-2");
  CHECK_THROWS_AS(pre(R"({"type":"Whitespace"})"), std::runtime_error);
  CHECK_THROWS_AS(pre(R"({"type":"ByteLevel","add_prefix_space":true})"), std::runtime_error);

  // SentencePiece merges by scores: the earliest merge has the highest.
  Companions pieces;
  pieces.files["tokenizer.json"] =
      R"({"added_tokens":[{"id":1,"content":"<s>","special":true}],"model":{"type":"BPE",
          "byte_fallback":true,"unk_token":"<unk>",
          "merges":[["a","b"],["ab","c"],["b","c"],["a","bc"]],
          "vocab":{"<unk>":0,"<s>":1,"<0x0A>":2,"a":3,"b":4,"c":5,"ab":6,"bc":7,"abc":8}}})";
  std::map<std::string, GgufValue> values;
  for (const auto& [key, value] : gguf_tokenizer(pieces, 9)) values[key] = value;
  CHECK(std::get<std::string>(values["tokenizer.ggml.model"]) == "llama");
  CHECK(std::get<std::vector<std::int32_t>>(values["tokenizer.ggml.token_type"]) ==
        std::vector<std::int32_t>{2, 3, 6, 1, 1, 1, 1, 1, 1});
  CHECK(std::get<std::vector<float>>(values["tokenizer.ggml.scores"]) ==
        std::vector<float>{0, 0, 0, 0, 0, 0, -1, -3, -2});

  CHECK_NOTHROW(gguf_tokenizer({}, 256));
  CHECK_THROWS_AS(gguf_tokenizer({}, 257), std::runtime_error);
  CHECK_THROWS_AS(gguf_tokenizer(pieces, 8), std::runtime_error);
}
