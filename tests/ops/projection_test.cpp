// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Linear maps with adapters over dense and quantised weights. jacobian_test.cpp tests their
// gradients.
#include "dropbp/ops/projection.hpp"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/ops_test.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

// q_proj and v_proj have adapters; k_proj has none.
const std::vector<Projection<double>::Part> three{
    {"b.q_proj.weight", 6}, {"b.k_proj.weight", 4}, {"b.v_proj.weight", 3}};

LoraConfig some(Index rank = 2) {
  return {.rank = rank, .alpha = 3.0, .targets = {"q_proj", "v_proj"}};
}

template <class T>
Projection<T> random_projection(std::vector<typename Projection<T>::Part> parts, Index input,
                                const LoraConfig& lora, std::uint64_t seed,
                                MemoryPool pool = MemoryPool(PoolFill::nan)) {
  Projection<T> projection(std::move(parts), input, lora, std::move(pool));
  for (std::size_t i = 0; i < projection.parts().size(); ++i) {
    Matrix<float> values = random_matrix<float>(projection.parts()[i].rows, input, ++seed);
    projection.set_weight(i, values.view());
  }
  if (lora.enabled()) randomise(projection.lora_a, ++seed), randomise(projection.lora_b, ++seed);
  return projection;
}

template <class T>
const Matrix<T> forward(Projection<T>& projection, const Matrix<T>& x, Index outputs) {
  Matrix<T> y(x.rows(), outputs), u(x.rows(), projection.adapter_width());
  projection.forward(y.view(), x.view(), Accumulate::overwrite, u.view());
  return y;
}

}  // namespace

TEST_CASE("projection: an already quantised weight is used as it is") {
  LoraConfig quantised = some();
  quantised.quantize = true;
  Projection<float> expected =
      random_projection<float>({{"b.q_proj.weight", 6}}, 70, quantised, 10);
  Projection<float> projection =
      random_projection<float>({{"b.q_proj.weight", 6}}, 70, quantised, 20);
  projection.set_weight(0, expected.quantized(0).clone());
  Matrix<float> x(6, 70), y(6, 70);
  expected.quantized(0).dequantize(x.view()), projection.quantized(0).dequantize(y.view());
  CHECK(same_bits(elements(x), elements(y)));
  CHECK_THROWS_AS(
      projection.set_weight(0, Nf4Matrix::quantize(random_matrix<float>(5, 70, 1).view())),
      std::invalid_argument);
  Projection<float> dense = random_projection<float>({{"b.q_proj.weight", 6}}, 70, some(), 10);
  CHECK_THROWS_AS(dense.set_weight(0, expected.quantized(0).clone()), std::out_of_range);
}

TEST_CASE("projection: adapters add alpha / rank * x A^T B^T to their own linear map") {
  Projection<double> projection = random_projection<double>(three, 5, some(), 10);
  const Matrix<double> x = random_matrix<double>(7, 5, 99);
  const Matrix<double> y = forward(projection, x, 13);
  REQUIRE(projection.lora_a.rows() == 4);
  REQUIRE(projection.lora_b.rows() == 9);
  for (Index t = 0; t < 7; ++t)
    for (Index o = 0; o < 13; ++o) {
      double expected = 0;
      for (Index j = 0; j < 5; ++j) expected += x.row(t)[j] * projection.weight.value().row(o)[j];
      if (o < 6 || o >= 10)
        for (Index r = 0; r < 2; ++r) {
          double u = 0;
          for (Index j = 0; j < 5; ++j)
            u += x.row(t)[j] * projection.lora_a.value().row(o < 6 ? r : 2 + r)[j];
          expected += 1.5 * u * projection.lora_b.value().row(o < 6 ? o : o - 4)[r];
        }
      CHECK(std::abs(y.row(t)[o] - expected) <= 1e-13);
    }
}

TEST_CASE("projection: adapters may have ranks and factors of their own") {
  LoraConfig adaptation = some();
  adaptation.targets = {"q_proj", "b.k_proj", "v_proj"};
  adaptation.rank_stabilized = true;
  adaptation.exceptions = {{"b.k_proj", 3, 5.0}, {"v_proj", 2, 1.0}, {"proj", 9, 9.0}};
  Projection<double> projection = random_projection<double>(three, 5, adaptation, 10);
  REQUIRE(projection.other_lora_b.size() == 1);
  randomise(projection.other_lora_b.front(), 33);
  REQUIRE(projection.adapter_width() == 2 + 3 + 2);
  CHECK(Projection<double>::adapter_width({"b.q_proj", "b.k_proj", "b.v_proj"}, adaptation) == 7);
  CHECK(projection.lora_b.rows() == 9);
  CHECK(projection.other_lora_b.front().columns() == 3);
  const Matrix<double> x = random_matrix<double>(7, 5, 99);
  const Matrix<double> y = forward(projection, x, 13);
  struct Own {
    Index output, outputs, row_a, rank;
    double factor;
    MatrixView<double> b;
  };
  const MatrixView<double> common = projection.lora_b.value();
  const Own adapters[] = {
      {0, 6, 0, 2, 3.0 / std::sqrt(2.0), common.rows_from(0, 6)},
      {6, 4, 2, 3, 5.0 / std::sqrt(3.0), projection.other_lora_b.front().value()},
      {10, 3, 5, 2, 1.0 / std::sqrt(2.0), common.rows_from(6, 3)}};
  for (const Own& own : adapters)
    for (Index t = 0; t < 7; ++t)
      for (Index o = 0; o < own.outputs; ++o) {
        double expected = 0;
        for (Index j = 0; j < 5; ++j)
          expected += x.row(t)[j] * projection.weight.value().row(own.output + o)[j];
        for (Index r = 0; r < own.rank; ++r)
          for (Index j = 0; j < 5; ++j)
            expected += own.factor * x.row(t)[j] * projection.lora_a.value().row(own.row_a + r)[j] *
                        own.b.row(o)[r];
        CHECK(std::abs(y.row(t)[own.output + o] - expected) <= 1e-13);
      }
  std::vector<std::string> names;
  projection.for_each_parameter([&](Parameter<double>& parameter) {
    if (parameter.trained)
      parameter.for_each_slice([&](const auto& slice) { names.push_back(slice.name); });
  });
  CHECK(names == std::vector<std::string>{"b.q_proj.lora_A.weight", "b.k_proj.lora_A.weight",
                                          "b.v_proj.lora_A.weight", "b.q_proj.lora_B.weight",
                                          "b.v_proj.lora_B.weight", "b.k_proj.lora_B.weight"});
  Projection<double> merged(three, 5, {}, MemoryPool());
  for (std::size_t i = 0; i < 3; ++i)
    projection.merged_weight(i, {merged.weight_of(i), three[i].rows, 5});
  CHECK(scaled_difference(elements(forward(merged, x, 13)), elements(y)) <= 1e-14);
  adaptation.exceptions = {{"q_proj", 0, 1.0}};
  CHECK_THROWS_AS(Projection<double>(three, 5, adaptation, MemoryPool()), std::invalid_argument);
}

TEST_CASE(
    "projection: parameter names, what is trainable, and a fresh adapter that changes nothing") {
  Projection<double> plain(three, 5, {}, MemoryPool());
  CHECK(plain.weight.trained);
  CHECK(plain.adapter_width() == 0);
  int count = 0;
  plain.for_each_parameter([&](const Parameter<double>&) { ++count; });
  CHECK(count == 1);

  Projection<double> adapted(three, 5, some(), MemoryPool());
  std::vector<std::string> trained, frozen;
  adapted.for_each_parameter([&](Parameter<double>& parameter) {
    parameter.for_each_slice(
        [&](const auto& slice) { (slice.trained ? trained : frozen).push_back(slice.name); });
  });
  CHECK(frozen ==
        std::vector<std::string>{"b.q_proj.weight", "b.k_proj.weight", "b.v_proj.weight"});
  CHECK(trained == std::vector<std::string>{"b.q_proj.lora_A.weight", "b.v_proj.lora_A.weight",
                                            "b.q_proj.lora_B.weight", "b.v_proj.lora_B.weight"});

  randomise(adapted.weight, 1), randomise(adapted.lora_a, 2);
  std::copy_n(adapted.weight.value().data, adapted.weight.size(), plain.weight.value().data);
  const Matrix<double> x = random_matrix<double>(3, 5, 3);
  CHECK(same_bits(elements(forward(plain, x, 13)), elements(forward(adapted, x, 13))));
}

TEST_CASE("projection: magnitudes replace the norms of the adapted rows, in both passes") {
  for (const bool quantize : {false, true}) {
    LoraConfig lora = some();
    lora.exceptions = {{"v_proj", 3, 5.0}};
    lora.quantize = quantize;
    // Panels of a quantised base have 256 rows.
    const std::vector<Projection<double>::Part> parts{
        {"q_proj.weight", 300}, {"k_proj.weight", 4}, {"v_proj.weight", 3}};
    const auto filled = [&](bool magnitudes) {
      lora.magnitudes = magnitudes;
      Projection<double> one(parts, 70, lora, MemoryPool(PoolFill::nan), true);
      for (std::size_t i = 0; i < 3; ++i)
        one.set_weight(i, random_matrix<float>(parts[i].rows, 70, 60 + i).view());
      randomise(one.lora_a, 71), randomise(one.lora_b, 72), randomise(one.bias, 73);
      randomise(one.other_lora_b.front(), 74);
      return one;
    };
    Projection<double> with = filled(true), plain = filled(false);
    REQUIRE(with.magnitude.rows() == 303);
    CHECK(with.magnitude.parts().back().name == "v_proj.lora_magnitude_vector");
    const Matrix<double> x = random_matrix<double>(5, 70, 75);
    const auto outputs = [&](Projection<double>& one, Matrix<double>& u, Accumulate mode) {
      Matrix<double> y = random_matrix<double>(5, 307, 76);
      one.forward(y.view(), x.view(), mode, u.view());
      return y;
    };
    Matrix<double> u(5, 5), plain_u(5, 5);
    const Matrix<double> t = outputs(plain, plain_u, Accumulate::overwrite);
    // At the start they change nothing, to the bit.
    with.reset_magnitudes();
    CHECK(same_bits(elements(outputs(with, u, Accumulate::overwrite)), elements(t)));

    std::vector<double> factors(307, 1.0), norms(307, 1.0);
    randomise(with.magnitude, 77, 0.5, 2.0);
    for (std::size_t part = 0, row = 0, m = 0; part < 3; ++part) {
      Matrix<double> sum(parts[part].rows, 70);
      plain.merged_weight(part, sum.view());
      for (Index i = 0; i < sum.rows(); ++i, ++row) {
        if (part == 1) continue;
        double square = 0;
        for (Index j = 0; j < 70; ++j) square += sum.row(i)[j] * sum.row(i)[j];
        norms[row] = std::sqrt(square);
        factors[row] = with.magnitude.value().data[m++] / norms[row];
        for (Index j = 0; j < 70; ++j) sum.row(i)[j] *= factors[row];
      }
      Matrix<double> merged(parts[part].rows, 70);
      with.merged_weight(part, merged.view());
      CHECK(scaled_difference(elements(merged), elements(sum)) <= 1e-14);
    }
    for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
      const Matrix<double> y = outputs(with, u, mode), before = random_matrix<double>(5, 307, 76);
      Matrix<double> expected(5, 307);
      for (Index i = 0; i < 5; ++i)
        for (Index j = 0; j < 307; ++j) {
          const double bias = plain.bias.value().row(j)[0];
          expected.row(i)[j] = (t.row(i)[j] - bias) * factors[static_cast<std::size_t>(j)] + bias +
                               (mode == Accumulate::add ? before.row(i)[j] : 0.0);
        }
      CHECK(scaled_difference(elements(y), elements(expected)) <= 1e-14);
    }

    // The norms are constants of the backward pass: below the factors it is that of plain adapters.
    const Matrix<double> grad = random_matrix<double>(5, 307, 78);
    Matrix<double> scaled(5, 307);
    for (Index i = 0; i < 5; ++i)
      for (Index j = 0; j < 307; ++j)
        scaled.row(i)[j] = grad.row(i)[j] * factors[static_cast<std::size_t>(j)];
    const auto backward = [&](Projection<double>& one, const Matrix<double>& g,
                              Matrix<double>& u_) {
      const Matrix<double> grad_u = one.adapter_gradient(g.view());
      Matrix<double> dx(5, 70);
      one.backward_parameters(g.view(), x.view(), u_.view(), grad_u);
      one.backward_input(dx.view(), g.view(), grad_u);
      return dx;
    };
    const auto same = [](const Parameter<double>& a, const Parameter<double>& b) {
      REQUIRE((a.has_gradient() && b.has_gradient()));
      const auto of = [](const Parameter<double>& p) {
        return std::vector<double>(p.gradient().data, p.gradient().data + p.size());
      };
      CHECK(scaled_difference(std::span<const double>(of(a)), std::span<const double>(of(b))) <=
            1e-14);
    };
    const Matrix<double> dx = backward(with, grad, u), plain_dx = backward(plain, scaled, plain_u);
    CHECK(scaled_difference(elements(dx), elements(plain_dx)) <= 1e-14);
    same(with.lora_a, plain.lora_a), same(with.lora_b, plain.lora_b);
    same(with.other_lora_b.front(), plain.other_lora_b.front());
    backward(with, grad, u);  // adds
    for (std::size_t row = 0, m = 0; row < 307; ++row) {
      if (row >= 300 && row < 304) continue;
      double sum = 0;
      for (Index i = 0; i < 5; ++i) {
        const auto j = static_cast<Index>(row);
        sum += grad.row(i)[j] * (t.row(i)[j] - plain.bias.value().row(j)[0]);
      }
      CHECK(with.magnitude.gradient().data[m++] == Approx(2.0 * sum / norms[row]).margin(1e-12));
    }
  }
}

TEST_CASE("projection: a row of zeros has no magnitude, and magnitudes go without dropout") {
  LoraConfig lora = some();
  lora.magnitudes = true;
  Projection<float> projection({{"q_proj.weight", 2}}, 3, lora, MemoryPool());
  Matrix<float> weight(2, 3);
  set_zero(weight.view());
  weight.row(1)[2] = 2.0f;
  projection.set_weight(0, weight.view());
  randomise(projection.lora_a, 1);
  projection.reset_magnitudes();
  CHECK(projection.magnitude.value().data[0] == 0.0f);
  CHECK(projection.magnitude.value().data[1] == 2.0f);
  const Matrix<float> y = forward(projection, random_matrix<float>(2, 3, 1), 2);
  CHECK(y.row(0)[0] == 0.0f);
  CHECK(std::isfinite(y.row(0)[1]));
  lora.micro_step = std::make_shared<MicroStepId>();
  lora.dropout = 0.1;
  CHECK(contains(invalid_message([&] { require_valid(lora); }), "DoRA"));
}

TEST_CASE("projection: merged weights give the results of weights and adapters") {
  for (const bool quantize : {false, true}) {
    LoraConfig lora = some(3);
    lora.quantize = quantize;
    Projection<double> projection = random_projection<double>(three, 70, lora, 20);
    Projection<double> merged(three, 70, {}, MemoryPool());
    for (std::size_t i = 0; i < 3; ++i)
      projection.merged_weight(i, {merged.weight_of(i), three[i].rows, 70});
    const Matrix<double> x = random_matrix<double>(4, 70, 5);
    CHECK(scaled_difference(elements(forward(merged, x, 13)),
                            elements(forward(projection, x, 13))) <= 1e-14);
  }
}

TEST_CASE(
    "projection: a quantised base computes with its dequantised weights, in a seventh of their "
    "memory") {
  // More rows than one panel, and a size that is not a multiple of a block.
  const std::vector<Projection<float>::Part> parts{{"gate_proj.weight", 700},
                                                   {"up_proj.weight", 301}};
  LoraConfig lora{.rank = 4, .targets = {"up_proj"}};
  lora.quantize = true;
  Projection<float> quantized = random_projection<float>(parts, 97, lora, 30);
  lora.quantize = false;
  Projection<float> dense = random_projection<float>(parts, 97, lora, 30);
  CHECK(quantized.weight.size() == 0);
  CHECK(quantized.weight_of(0) == nullptr);
  CHECK(quantized.base_bytes() * 7 < dense.base_bytes());
  CHECK(dense.base_bytes() == 1001u * 97u * sizeof(float));
  for (std::size_t i = 0; i < 2; ++i) {
    Matrix<float> values(parts[i].rows, 97);
    copy<float>(values.view(), MatrixView<const float>(dense.weight_of(i), parts[i].rows, 97));
    Nf4Matrix::quantize(values.view())
        .dequantize(MatrixView<float>(dense.weight_of(i), parts[i].rows, 97));
  }
  const Matrix<float> x = random_matrix<float>(11, 97, 6), dy = random_matrix<float>(11, 1001, 7);
  CHECK(same_bits(elements(forward(quantized, x, 1001)), elements(forward(dense, x, 1001))));

  Matrix<float> dx(11, 97), dense_dx(11, 97), u(11, 4);
  fill<float>(elements(u), 8);
  for (Projection<float>* one : {&quantized, &dense}) {
    const Matrix<float> grad_u = one->adapter_gradient(dy.view());
    one->backward_parameters(dy.view(), x.view(), u.view(), grad_u);
    one->backward_input(one == &dense ? dense_dx.view() : dx.view(), dy.view(), grad_u);
    CHECK_FALSE(one->weight.has_gradient());
  }
  CHECK(scaled_difference(elements(dx), elements(dense_dx)) <= 2e-6);
  CHECK(same_bits(elements(quantized.lora_a.gradient()), elements(dense.lora_a.gradient())));
  CHECK(same_bits(elements(quantized.lora_b.gradient()), elements(dense.lora_b.gradient())));
}

TEST_CASE(
    "dropout: a pure function of seed, step, micro-step and linear map, with the right share") {
  const Matrix<float> x = random_matrix<float>(257, 130, 1, 1, 2);
  const auto drop = [&](MicroStepId id, std::uint64_t stream) -> const Matrix<float> {
    Matrix<float> y(257, 130);
    dropout<float>(y.view(), x.view(), 0.25, id, stream);
    return y;
  };
  const MicroStepId id{.seed = 5, .step = 6, .micro_step = 7};
  const Matrix<float> y = drop(id, 8);
  std::size_t zeros = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (y.data()[i] == 0.0f)
      ++zeros;
    else
      REQUIRE(y.data()[i] == x.data()[i] * static_cast<float>(1.0 / 0.75));
  }
  // Six standard deviations of 33410 elements are 475.
  CHECK(std::abs(static_cast<double>(zeros) - 0.25 * 33410) < 475);
  ThreadsGuard guard;
  for (const int threads : thread_counts) {
    use_threads(threads);
    CHECK(same_bits(elements(y), elements(drop(id, 8))));
  }
  const auto differs = [&](MicroStepId other, std::uint64_t stream) {
    const Matrix<float> z = drop(other, stream);
    int same = 0;
    for (std::size_t i = 0; i < y.size(); ++i)
      same += (y.data()[i] == 0.0f) == (z.data()[i] == 0.0f) ? 1 : 0;
    // Independent masks agree in 0.25^2 + 0.75^2 of the elements. Six standard deviations are 532.
    return std::abs(static_cast<double>(same) - 0.625 * 33410) < 532;
  };
  CHECK(differs({.seed = 6, .step = 6, .micro_step = 7}, 8));
  CHECK(differs({.seed = 5, .step = 7, .micro_step = 7}, 8));
  CHECK(differs({.seed = 5, .step = 6, .micro_step = 8}, 8));
  CHECK(differs({.seed = 5, .step = 6, .micro_step = 7}, 9));

  const auto now = std::make_shared<MicroStepId>();
  LoraConfig lora = some();
  lora.dropout = 0.5, lora.micro_step = now;
  Projection<double> with = random_projection<double>(three, 5, lora, 10);
  Projection<double> without = random_projection<double>(three, 5, some(), 10);
  const Matrix<double> input = random_matrix<double>(7, 5, 99),
                       expected = forward(without, input, 13);
  CHECK_FALSE(same_bits(elements(forward(with, input, 13)), elements(expected)));
  now->training = false;
  CHECK(same_bits(elements(forward(with, input, 13)), elements(expected)));
  // Even a tiny share is dropped: all kept elements are divided by 1 - share.
  now->training = true;
  lora.dropout = 1e-6;
  Projection<double> little = random_projection<double>(three, 5, lora, 10);
  CHECK_FALSE(same_bits(elements(forward(little, input, 13)), elements(expected)));
}

TEST_CASE("LoraConfig: impossible values are refused") {
  const auto message = [](const LoraConfig& lora) {
    return invalid_message(
        [&] { Projection<float>({{"q_proj.weight", 2}}, 3, lora, MemoryPool()); });
  };
  CHECK(contains(message({.rank = -1}), "rank -1"));
  CHECK(contains(message({.rank = 1, .alpha = std::nan("")}), "finite alpha"));
  CHECK(contains(message({.rank = 1, .dropout = 1.0}), "dropout 1"));
  CHECK(contains(message({.rank = 1, .dropout = 0.5}), "MicroStepId"));
  CHECK(contains(message({.quantize = true}), "rank 0 was given"));
  CHECK(message({.rank = 1, .quantize = true}).empty());
  for (const char* const unknown : {"qproj", "c_attn", "", "self_attn.c_attn"}) {
    const std::string refusal = message({.rank = 1, .targets = {"q_proj", unknown}});
    CHECK(contains(refusal, "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"));
    CHECK(contains(refusal, std::string("`") + unknown + "`"));
  }
  CHECK(message({.rank = 1, .targets = {"up_proj"}}).empty());  // known, but not here
  CHECK(message({.rank = 1, .targets = {"model.layers.0.self_attn.q_proj"}}).empty());

  LoraConfig quantize{.rank = 1, .quantize = true};
  Projection<float> projection({{"x.q_proj.weight", 1}}, 2, quantize, MemoryPool());
  const float bad[] = {1.0f, std::nanf("")};
  CHECK(
      contains(invalid_message([&] { projection.set_weight(0, {bad, 1, 2}); }), "x.q_proj.weight"));
  CHECK(contains(invalid_message([&] { projection.set_weight(0, {bad, 2, 1}); }),
                 "'x.q_proj.weight' has the shape [1, 2]"));
}
