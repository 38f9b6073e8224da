// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How close do the CUDA kernels come to the GPU's limits? Measures copying, reading and multiplying
// first, then reports every kernel as a fraction of one of these. The shapes are those of
// LLaMA2-7B.
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <dropbp/kernels/cuda.hpp>
#include <dropbp/ops/adamw.hpp>
#include <dropbp/ops/dropout.hpp>
#include <dropbp/ops/fp8.hpp>
#include <dropbp/ops/nf4.hpp>
#include <dropbp/ops/rope.hpp>

#include "cuda/card.hpp"
#include "cuda/extra.hpp"

namespace {

using namespace dropbp;
using bench::Device, bench::filled;
using bench::Json;
using ops::Index;
using ops::Matrix;
using ops::MatrixView;

struct Ceilings {
  double copy, read, multiply;  ///< bytes a second copied (read and written), bytes a second
                                ///< read, floating-point operations a second
};

class Table {
 public:
  /// `save` is called after each row: a run that is stopped leaves those it has.
  Table(int rounds, Json& rows, std::function<void()> save)
      : rounds_(rounds), rows_(rows), save_(std::move(save)) {}

  Ceilings ceilings{};

  enum class Of { copy, read, multiply };
  /// `work` is the least number of bytes to move, or the number of operations.
  double add(const std::string& name, const char* scalar, Of of, double work,
             const std::function<void()>& call) {
    const double seconds = bench::seconds_on_card(rounds_, call), rate = work / seconds;
    const double ceiling = of == Of::copy   ? ceilings.copy
                           : of == Of::read ? ceilings.read
                                            : ceilings.multiply;
    const char* const unit = of == Of::multiply ? "TFLOP/s" : "TB/s";
    const char* const ceiling_name = of == Of::copy ? "copy" : of == Of::read ? "read" : "GEMM";
    const double fraction = ceiling > 0 ? rate / ceiling : 1.0;
    fmt::print("{:<34} {:<9} {:>10.1f} us {:>8.2f} {:<8} {:>5.2f} of {}\n", name, scalar,
               1e6 * seconds, 1e-12 * rate, unit, fraction, ceiling_name);
    std::fflush(stdout);
    rows_.push_back({{"kernel", name},
                     {"scalar", scalar},
                     {"seconds", seconds},
                     {"rate", rate},
                     {"fraction", fraction},
                     {"ceiling", ceiling_name}});
    save_();
    return rate;
  }

 private:
  int rounds_;
  Json& rows_;
  std::function<void()> save_;
};

namespace op = ops::op;
template <class Op, class T>
using Kernels = ops::kernels<Op, T, Cuda>;

template <class T>
void measure_kernels(Table& table, const char* scalar, Index tokens, bool quick) {
  using Of = Table::Of;
  constexpr Index hidden = 4096, intermediate = 11008, heads = 32, head_size = 128;
  const double n = static_cast<double>(tokens) * hidden * sizeof(T),
               m = static_cast<double>(tokens) * intermediate * sizeof(T);
  const auto overwrite = ops::Accumulate::overwrite;
  {
    Matrix<T, Cuda> x = filled<T>(tokens, hidden), y = filled<T>(tokens, hidden),
                    dy = filled<T>(tokens, hidden), w = filled<T>(1, hidden);
    Matrix<float, Cuda> rstd(1, tokens);
    Matrix<float, Cuda> shares(1, Kernels<op::rms_norm, T>::backward_workspace(tokens, hidden));
    table.add("copy", scalar, Of::copy, 2 * n,
              [&] { Kernels<op::elementwise, T>::copy(y.view(), x.view()); });
    table.add("residual add", scalar, Of::copy, 3 * n,
              [&] { Kernels<op::elementwise, T>::accumulate(y.view(), x.view()); });
    table.add("zero", scalar, Of::copy, n,
              [&] { Kernels<op::elementwise, T>::set_zero(y.view()); });
    table.add("scale", scalar, Of::copy, 2 * n,
              [&] { Kernels<op::elementwise, T>::scale(y.view(), 1.0f); });
    table.add("add and RMSNorm forward", scalar, Of::copy, 4 * n, [&] {
      bench::add_rms_norm<T>(y.data(), rstd.data(), dy.data(), x.data(), w.data(), tokens, hidden);
    });
    table.add("dropout", scalar, Of::copy, 2 * n,
              [&] { ops::dropout(y.view(), x.view(), 0.1, {.seed = 1}, 1); });
    table.add("RMSNorm forward", scalar, Of::copy, 2 * n, [&] {
      Kernels<op::rms_norm, T>::forward(y.view(), rstd.data(), x.view(), w.data(), 1e-5);
    });
    table.add("RMSNorm backward, joined", scalar, Of::copy, 4 * n, [&] {
      Kernels<op::rms_norm, T>::backward(y.view(), ops::Accumulate::add, dy.view(), x.view(),
                                         w.data(), rstd.data(), nullptr, overwrite, nullptr);
    });
    Matrix<T, Cuda> dw(1, hidden);
    table.add("RMSNorm backward, with weight", scalar, Of::copy, 4 * n, [&] {
      Kernels<op::rms_norm, T>::backward(y.view(), ops::Accumulate::add, dy.view(), x.view(),
                                         w.data(), rstd.data(), dw.data(), overwrite,
                                         shares.data());
    });
    std::vector<std::int32_t> tokens_of_rows(static_cast<std::size_t>(tokens));
    for (std::size_t i = 0; i < tokens_of_rows.size(); ++i)
      tokens_of_rows[i] = static_cast<std::int32_t>(i * 7919 % 32000);
    Matrix<T, Cuda> words = filled<T>(32000, hidden);
    table.add("embedding forward", scalar, Of::copy, 2 * n,
              [&] { Kernels<op::embedding, T>::forward(y.view(), tokens_of_rows, words.view()); });
    // Reads the gradients of the rows and writes the gradient of the whole weight.
    table.add("embedding backward", scalar, Of::copy, n + 32000.0 * hidden * sizeof(T), [&] {
      Kernels<op::embedding, T>::backward(words.view(), overwrite, dy.view(), tokens_of_rows);
    });
    const std::vector<ops::DeviceSpan<const T, Cuda>> spans(1, {x.data(), x.size()});
    table.add("squared norm, waits", scalar, Of::read, n,
              [&] { Kernels<op::squared_norms, T>::run(spans); });
    table.add("squared distance, waits", scalar, Of::read, 2 * n,
              [&] { Kernels<op::squared_norms, T>::distance(x.data(), y.data(), x.size()); });
  }
  {
    Matrix<T, Cuda> gate_up = filled<T>(tokens, 2 * intermediate),
                    out = filled<T>(tokens, intermediate), grad(tokens, 2 * intermediate);
    table.add("SwiGLU forward", scalar, Of::copy, 3 * m,
              [&] { Kernels<op::swiglu, T>::forward(out.view(), gate_up.view()); });
    table.add("SwiGLU backward", scalar, Of::copy, 6 * m,
              [&] { Kernels<op::swiglu, T>::backward(grad.view(), out.view(), gate_up.view()); });
  }
  {
    const Index rows = std::min(tokens, Index{1024}), vocabulary = 32000;
    Matrix<T, Cuda> logits = filled<T>(rows, vocabulary);
    Matrix<float, Cuda> losses(1, rows);
    Matrix<std::int32_t, Cuda> targets(1, rows);
    Device::fill(targets.data(), 0, targets.size() * sizeof(std::int32_t));
    table.add("cross-entropy with its gradient", scalar, Of::copy,
              2.0 * static_cast<double>(rows * vocabulary) * sizeof(T), [&] {
                Kernels<op::cross_entropy, T>::run(logits.view(), losses.data(), targets.data(),
                                                   -100, static_cast<double>(rows), true);
              });
  }
  {
    const Index size = quick ? 1 << 24 : 1 << 27;
    Matrix<T, Cuda> value = filled<T>(size / 4096, 4096), gradient = filled<T>(size / 4096, 4096);
    Matrix<float, Cuda> master(size / 4096, 4096), first(size / 4096, 4096),
        second(size / 4096, 4096);
    for (auto* x : {&master, &first, &second})
      Device::fill(x->data(), 0, x->size() * sizeof(float));
    std::vector<dropbp::ops::AdamWSegment<T>> segments = {
        {.value = value.data(),
         .gradient = gradient.data(),
         .master = std::is_same_v<T, float> ? nullptr : master.data(),
         .first_moment = first.data(),
         .second_moment = second.data(),
         .size = size,
         .step_size = 1e-4f,
         .root_correction = 1.0f,
         .keep = 1.0f,
         .first_chunk = 0}};
    // Bytes per element: 4 + 8 + 8 + 8 for float, 2 + 2 + 8 + 8 + 8 for 16-bit types.
    table.add("AdamW", scalar, Of::copy, 28.0 * static_cast<double>(size), [&] {
      Kernels<op::adamw, T>::run(segments, ops::detail::adamw_constants<float>({}, 1.0));
    });
  }
  {
    const Index rows = 4 * hidden;  // larger than the cache
    std::vector<float> weights(static_cast<std::size_t>(rows * hidden));
    for (std::size_t i = 0; i < weights.size(); ++i)
      weights[i] = static_cast<float>(i * 2654435761u % 4001u) * 1e-5f - 0.02f;
    const auto quantized =
        ops::BasicNf4Matrix<Cuda>::quantize(MatrixView<const float>(weights.data(), rows, hidden));
    Matrix<T, Cuda> expanded(rows, hidden);
    table.add("NF4 expansion", scalar, Of::copy,
              (0.516 + sizeof(T)) * static_cast<double>(rows * hidden),
              [&] { quantized.dequantize(expanded.view()); });
    const auto bytes = ops::BasicFp8Matrix<Cuda>::quantize({weights.data(), rows, hidden});
    table.add("8-bit expansion", scalar, Of::copy,
              (1.0 + sizeof(T)) * static_cast<double>(rows * hidden),
              [&] { bytes.dequantize(expanded.view()); });
    Matrix<std::uint8_t, Cuda> codes(rows, hidden);
    Matrix<float, Cuda> scales(1, rows);
    table.add("8-bit quantisation", scalar, Of::copy,
              (1.0 + sizeof(T)) * static_cast<double>(rows * hidden), [&] {
                Kernels<op::fp8, T>::quantize(codes.view(), scales.data(),
                                              std::as_const(expanded).view());
              });
  }
  {
    const Index sequence = std::min(tokens, Index{4096}), batch = tokens / sequence;
    const ops::HeadLayout layout{heads, heads, head_size};
    const ops::SequenceShape shape{batch, sequence};
    Matrix<T, Cuda> qkv = filled<T>(batch * sequence, 3 * hidden), o(batch * sequence, hidden),
                    d_o = filled<T>(batch * sequence, hidden), grad(batch * sequence, 3 * hidden);
    Matrix<float, Cuda> lse(1, batch * heads * sequence);
    const ops::RopeTable<T, Cuda> rope(sequence, head_size);
    table.add("rotation of q and k", scalar, Of::copy,
              4 * static_cast<double>(batch * sequence * hidden) * sizeof(T), [&] {
                Kernels<op::rope, T>::run(qkv.view(), rope.cosine(), rope.sine(), 2 * heads,
                                          head_size / 2, sequence, ops::Rotation::forward);
              });
    const double flops = 2.0 * static_cast<double>(batch * heads * sequence * sequence *
                                                   head_size);  // two products, half of each masked
    using Code = ops::AttentionCode;
    for (const Code code : {Code::own, Code::library}) {
      const std::string by = code == Code::library ? ", cuDNN" : "";
      const auto forward = [&] {
        return Kernels<op::attention, T>::forward(o.view(), lse.data(), qkv.view(), layout, shape,
                                                  code);
      };
      const auto backward = [&] {
        return Kernels<op::attention, T>::backward(grad.view(), d_o.view(), qkv.view(), o.view(),
                                                   lse.data(), layout, shape, code);
      };
      // Without cuDNN the second measurement would repeat the first.
      if (forward() == code)
        table.add("attention forward" + by, scalar, Of::multiply, flops, forward);
      if (backward() == code)
        table.add("attention backward" + by, scalar, Of::multiply, 2.5 * flops, backward);
    }
  }
  struct Linear {
    const char* name;
    Index n, k;
  };
  for (const Linear& linear :
       {Linear{"q, k, v", 3 * hidden, hidden}, Linear{"o", hidden, hidden},
        Linear{"gate, up", 2 * intermediate, hidden}, Linear{"down", hidden, intermediate}}) {
    Matrix<T, Cuda> x = filled<T>(tokens, linear.k), w = filled<T>(linear.n, linear.k),
                    y = filled<T>(tokens, linear.n);
    const double flops =
        2.0 * static_cast<double>(tokens * linear.n) * static_cast<double>(linear.k);
    const std::string name = std::string("product ") + linear.name;
    table.add(name + ", y = x W^T", scalar, Of::multiply, flops, [&] {
      Kernels<op::gemm, T>::run(ops::GemmLayout::nt, y.view(), x.view(), w.view(), overwrite);
    });
    // Relative to the rate of products in T: about 2 is the aim.
    ops::BasicMemoryPool<Cuda> pool;
    const auto x8 = ops::BasicFp8Matrix<Cuda>::quantize(std::as_const(x).view(), pool),
               w8 = ops::BasicFp8Matrix<Cuda>::quantize(std::as_const(w).view(), pool);
    const auto product = [&] {
      return Kernels<op::fp8_gemm, T>::run(y.view(), x8.codes(), x8.scales(), w8.codes(),
                                           w8.scales(), overwrite);
    };
    if (product()) table.add(name + ", y = x W^T in 8 bits", scalar, Of::multiply, flops, product);
    table.add(name + ", dx = dy W", scalar, Of::multiply, flops, [&] {
      Kernels<op::gemm, T>::run(ops::GemmLayout::nn, x.view(), y.view(), w.view(), overwrite);
    });
    table.add(name + ", dW = dy^T x", scalar, Of::multiply, flops, [&] {
      Kernels<op::gemm, T>::run(ops::GemmLayout::tn, w.view(), y.view(), x.view(), overwrite);
    });
  }
}

// Linear maps with an adapter of rank 8, in two orders: the adapter writes and the weights add, as
// the library does, or the other way round.
template <class T>
void measure_adapters(Table& table, const char* scalar, Index tokens) {
  constexpr Index hidden = 4096, intermediate = 11008, rank = 8;
  using ops::Accumulate, ops::GemmLayout;
  const auto product = [](GemmLayout layout, Matrix<T, Cuda>& c, const Matrix<T, Cuda>& a,
                          const Matrix<T, Cuda>& b, bool add) {
    Kernels<op::gemm, T>::run(layout, c.view(), a.view(), b.view(),
                              add ? Accumulate::add : Accumulate::overwrite);
  };
  struct Maps {
    const char* name;
    Index n;
  };
  for (const Maps& maps : {Maps{"q, k, v", 3 * hidden}, Maps{"gate, up", 2 * intermediate}}) {
    Matrix<T, Cuda> x = filled<T>(tokens, hidden), w = filled<T>(maps.n, hidden),
                    y = filled<T>(tokens, maps.n), u = filled<T>(tokens, rank),
                    a = filled<T>(rank, hidden), b = filled<T>(maps.n, rank);
    const auto add = [&](const std::string& name, Index depth, Index outputs, auto weights,
                         auto adapter) {
      const double flops =
          2.0 * static_cast<double>(tokens * outputs) * static_cast<double>(depth + rank);
      table.add(name + ", added to an adapter's", scalar, Table::Of::multiply, flops,
                [&] { adapter(false), weights(true); });
      table.add(name + ", then an adapter's", scalar, Table::Of::multiply, flops,
                [&] { weights(false), adapter(true); });
    };
    add(
        std::string(maps.name) + ": y", hidden, maps.n,
        [&](bool adds) { product(GemmLayout::nt, y, x, w, adds); },
        [&](bool adds) { product(GemmLayout::nt, y, u, b, adds); });
    add(
        std::string(maps.name) + ": dx", maps.n, hidden,
        [&](bool adds) { product(GemmLayout::nn, x, y, w, adds); },
        [&](bool adds) { product(GemmLayout::nn, x, u, a, adds); });
  }
}

int run(int argc, char** argv) {
  CLI::App app{
      "Compares the CUDA kernels with the limits of the GPU: each row is a fraction of the "
      "measured rate of copying, reading or multiplying.",
      "cuda_kernels"};
  bench::Options common(app, "2048 tokens, 3 rounds", false);
  Index tokens = 16384;
  app.add_option("--tokens", tokens, "rows of the matrices; a multiple of 1024")
      ->check(CLI::Range(1024, 1 << 20))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const bench::Card card;
  common.begin();
  if (common.quick) tokens = 2048;
  tokens = tokens / 1024 * 1024;
  fmt::print("{}; {} tokens\n\n", card.text(), tokens);
  Json rows = Json::array();
  Json ceilings;
  const auto save = [&] {
    common.write(
        Json{{"card", card.json()}, {"tokens", tokens}, {"ceilings", ceilings}, {"rows", rows}});
  };
  Table table(common.quick ? 3 : 9, rows, save);
  {
    const std::size_t bytes = std::size_t{common.quick ? 1u : 4u} << 28;
    Matrix<float, Cuda> from(1, static_cast<Index>(bytes / sizeof(float))),
        to(1, static_cast<Index>(bytes / sizeof(float)));
    Device::fill(from.data(), 0, bytes);
    table.ceilings.copy =
        table.add("ceiling: copy", "", Table::Of::copy, 2.0 * static_cast<double>(bytes),
                  [&] { Device::copy(to.data(), from.data(), bytes); });
    table.ceilings.read =
        table.add("ceiling: read", "", Table::Of::read, static_cast<double>(bytes),
                  [&] { bench::read_everything(from.data(), bytes, to.data()); });
  }
  ceilings = {{"copy_bytes_per_second", table.ceilings.copy},
              {"read_bytes_per_second", table.ceilings.read}};
  const auto measure = [&]<class T>(T, const char* scalar, Index rows_of_matrices) {
    table.ceilings.multiply = bench::product_rate<T>(common.quick ? 3 : 9);
    fmt::print("ceiling: product 8192 x 8192 x 8192 of {}: {:.1f} TFLOP/s\n", scalar,
               1e-12 * table.ceilings.multiply);
    ceilings[std::string(scalar) + "_flops"] = table.ceilings.multiply;
    measure_kernels<T>(table, scalar, rows_of_matrices, common.quick);
  };
  measure(BFloat16{}, "bfloat16", tokens);
  measure_adapters<BFloat16>(table, "bfloat16", tokens);
  measure(float{}, "float", tokens / 4);
  for (const ops::AttentionNote& note : ops::attention_notes<Cuda>())
    fmt::print(stderr, "{}\n", note.text());
  save();
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("cuda_kernels", argc, argv, run); }
