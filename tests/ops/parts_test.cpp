// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The parts of the branches, compared with plain double arithmetic over sizes that cross every
// block and chunk.
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/rope.hpp"
#include "dropbp/ops/swiglu.hpp"
#include "ops/ops_test.hpp"
#include "ops/reference.hpp"
#include "support/worst.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;
using reference::Table;

namespace {

// The allowed error of a part: largest error divided by largest value.
template <class T>
constexpr double tolerance = sizeof(T) == 4 ? 5e-6 : 1e-13;

template <class T>
T exp_of(T x) {
  T result = 0;
  dropbp::ops::detail::with_vectors<T>([&](auto n) DROPBP_FORCE_INLINE {
    using Lanes = dropbp::ops::detail::Vector<T, n>;
    T lanes[static_cast<std::size_t>(n)];
    dropbp::ops::detail::store<n>(lanes, dropbp::ops::detail::exp(Lanes::all(x)));
    result = lanes[0];
  });
  return result;
}

template <class T>
void check_exp() {
  double worst = 0;
  const double ends[] = {sizeof(T) == 4 ? -87.3 : -708.3, sizeof(T) == 4 ? 88.7 : 709.7};
  for (int i = 0; i <= 200000; ++i) {
    const T x = static_cast<T>(ends[0] + (ends[1] - ends[0]) * i / 200000);
    const long double expected = std::exp(static_cast<long double>(x));
    keep_worst(worst, static_cast<double>(std::abs(static_cast<long double>(exp_of(x)) - expected) /
                                          expected));
  }
  CHECK(worst <= 2 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  const auto at = exp_of<T>;
  constexpr T inf = std::numeric_limits<T>::infinity();
  CHECK(at(0) == 1);
  CHECK(at(-inf) == 0);
  CHECK(at(inf) == inf);
  CHECK(at(std::numeric_limits<T>::max()) == inf);
  CHECK(at(std::numeric_limits<T>::lowest()) == 0);
  CHECK(std::isnan(at(std::numeric_limits<T>::quiet_NaN())));
  CHECK(at(sizeof(T) == 4 ? T(-100) : T(-740)) > 0);  // subnormal
}

struct AttentionCase {
  SequenceShape shape;
  HeadLayout layout;
};
const AttentionCase attention_cases[] = {
    {{2, 1}, {2, 2, 8}},    {{1, 47}, {2, 1, 5}},   {{2, 48}, {3, 3, 16}}, {{1, 49}, {4, 2, 7}},
    {{2, 100}, {6, 2, 12}}, {{1, 384}, {1, 1, 32}}, {{1, 385}, {2, 1, 9}}, {{2, 96}, {2, 1, 6}},
    {{1, 97}, {1, 1, 8}},   {{1, 451}, {2, 2, 64}}};

template <class T>
void check_attention(const SequenceShape& shape, const HeadLayout& layout, double spread) {
  {
    MemoryPool poisoned(PoolFill::nan);
    const Matrix<T> qkv = random_matrix<T>(shape.tokens(), layout.qkv_width(), 1, -spread, spread);
    const Matrix<T> grad_o = random_matrix<T>(shape.tokens(), layout.q_width(), 2);
    Matrix<T> o(shape.tokens(), layout.q_width(), poisoned),
        lse(shape.batch * layout.heads, shape.sequence, poisoned);
    Matrix<T> grad_qkv(shape.tokens(), layout.qkv_width(), poisoned);
    attention_forward(o.view(), lse.data(), qkv.view(), layout, shape);
    attention_backward(grad_qkv.view(), grad_o.view(), qkv.view(), o.view(), lse.data(), layout,
                       shape);
    const auto expected =
        reference::attention(Table(qkv.view()), Table(grad_o.view()), layout, shape);
    CAPTURE(shape.batch, shape.sequence, layout.heads, layout.kv_heads, layout.head_size);
    CHECK(scaled_difference(elements(o), expected.o) <= tolerance<T>);
    CHECK(scaled_difference(elements(lse), expected.lse) <= tolerance<T>);
    CHECK(scaled_difference(elements(grad_qkv), expected.grad_qkv) <= 4 * tolerance<T>);
  }
}

template <class T>
void check_attention(double spread) {
  for (const auto& [shape, layout] : attention_cases) check_attention<T>(shape, layout, spread);
}

// Where the samples of each sequence begin, if they have these lengths in turn.
std::vector<std::int32_t> packed(const SequenceShape& shape, std::vector<Index> lengths) {
  std::vector<std::int32_t> begin;
  for (Index b = 0; b < shape.batch; ++b) {
    Index start = 0, length = lengths[static_cast<std::size_t>(b) % lengths.size()];
    for (Index i = 0, sample = b; i < shape.sequence; ++i) {
      if (i == start + length) {
        start = i;
        length = lengths[static_cast<std::size_t>(++sample) % lengths.size()];
      }
      begin.push_back(static_cast<std::int32_t>(start));
    }
  }
  return begin;
}

template <class T>
void check_masked_attention() {
  for (auto [shape, layout] : attention_cases)
    for (const Index window : {0, 1, 5, 48, 130, 100000}) {
      layout.window = window;
      check_attention<T>(shape, layout, 1);
      for (const std::vector<Index>& lengths :
           {std::vector<Index>{1}, {7, 60, 1, 200}, {385}, {48, 96}}) {
        const std::vector<std::int32_t> begin = packed(shape, lengths);
        shape.sample_begin = begin;
        CAPTURE(window, lengths.front());
        check_attention<T>(shape, layout, 1);
        shape.sample_begin = {};
      }
    }
}

template <class T>
void check_rms_norm() {
  for (const auto& [rows, hidden] :
       {std::pair<Index, Index>{1, 1}, {63, 17}, {64, 300}, {65, 512}, {200, 129}}) {
    MemoryPool pool(PoolFill::nan);
    Parameter<T> w("w", 1, hidden);
    randomise(w, 1);
    const Matrix<T> x = random_matrix<T>(rows, hidden, 2), dy = random_matrix<T>(rows, hidden, 3);
    Matrix<T> y(rows, hidden, pool), again(rows, hidden, pool), rstd(1, rows, pool),
        dx(rows, hidden, pool);
    rms_norm_forward(y.view(), rstd.data(), x.view(), w.value().data, 1e-5);
    const Table expected = reference::rms_norm(Table(x.view()), Table(w.value()), 1e-5);
    CAPTURE(rows, hidden);
    CHECK(scaled_difference(elements(y), expected) <= tolerance<T>);
    rms_norm_recompute(again.view(), x.view(), w.value().data, rstd.data());
    CHECK(same_bits(elements(y), elements(again)));

    Table grad_w(1, hidden), grad_x(rows, hidden);
    for (Index i = 0; i < rows; ++i) {
      double squares = 0, dot = 0;
      for (Index j = 0; j < hidden; ++j) squares += std::pow(static_cast<double>(x.row(i)[j]), 2);
      const double r = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-5);
      for (Index j = 0; j < hidden; ++j) {
        const double g = static_cast<double>(dy.row(i)[j]), in = static_cast<double>(x.row(i)[j]);
        grad_w.at(0, j) += g * in * r;
        dot += g * static_cast<double>(w.value().data[j]) * in;
      }
      for (Index j = 0; j < hidden; ++j)
        grad_x.at(i, j) =
            r * (static_cast<double>(dy.row(i)[j]) * static_cast<double>(w.value().data[j]) -
                 static_cast<double>(x.row(i)[j]) * r * r * dot / static_cast<double>(hidden));
    }
    rms_norm_backward(dx.view(), Accumulate::overwrite, dy.view(), x.view(), w, rstd.data(), pool);
    CHECK(scaled_difference(elements(dx), grad_x) <=
          (hidden == 1 ? 1e-1 : tolerance<T>));  // hidden 1: cancels to eps
    CHECK(scaled_difference(elements(w.gradient()), grad_w) <= tolerance<T>);

    // Accumulating gives twice the gradient in both places. Without grad_input the weight's
    // gradient is the same.
    rms_norm_backward(dx.view(), Accumulate::add, dy.view(), x.view(), w, rstd.data(), pool);
    for (double& value : grad_x.values) value *= 2;
    for (double& value : grad_w.values) value *= 2;
    CHECK(scaled_difference(elements(dx), grad_x) <= (hidden == 1 ? 1e-1 : tolerance<T>));
    CHECK(scaled_difference(elements(w.gradient()), grad_w) <= tolerance<T>);
    w.drop_gradient();
    rms_norm_backward<T>({}, Accumulate::overwrite, dy.view(), x.view(), w, rstd.data(), pool);
    for (double& value : grad_w.values) value /= 2;
    CHECK(scaled_difference(elements(w.gradient()), grad_w) <= tolerance<T>);
  }
}

// Which tokens have no label.
bool every_fifth(Index t) { return t % 5 == 4; }
bool none(Index) { return false; }
bool all_but_two(Index t) { return t != 3 && t != 11; }
bool a_prompt(Index t) { return t < 9; }

template <class T>
void check_cross_entropy(bool (*ignored)(Index)) {
  for (const Index chunk : {1, 16, 50, 1024})
    for (const auto& [tokens, hidden, vocabulary] :
         {std::array<Index, 3>{1, 3, 1}, {50, 20, 1001}, {33, 7, 300}, {16, 5, 255}}) {
      MemoryPool pool(PoolFill::nan);
      Parameter<T> weight("w", vocabulary, hidden);
      randomise(weight, 1, -3, 3);
      Matrix<T> x = random_matrix<T>(tokens, hidden, 2, -3, 3), dx(tokens, hidden);
      fill<T>(elements(dx), 3);
      std::vector<std::int32_t> targets;
      Index labelled = 0;
      for (Index t = 0; t < tokens; ++t) {
        targets.push_back(ignored(t) ? -100 : static_cast<std::int32_t>(t * 977 % vocabulary));
        labelled += ignored(t) ? 0 : 1;
      }
      if (labelled == 0) continue;
      const auto expected =
          reference::cross_entropy(Table(x.view()), Table(weight.value()), targets, -100);
      for (Index t = 0; t < tokens; ++t)  // nobody reads the rows without a label
        if (ignored(t)) std::fill_n(x.row(t), hidden, std::numeric_limits<T>::quiet_NaN());
      CrossEntropy<T> loss(pool, chunk);
      const double alone = loss.loss(x.view(), weight, targets);
      CHECK(pool.peak_bytes() <=
            static_cast<std::size_t>(std::min(chunk, labelled) * (vocabulary + hidden)) *
                sizeof(T));
      const double with_gradient = loss.loss_and_gradient(dx.view(), x.view(), weight, targets);
      CAPTURE(chunk, tokens, hidden, vocabulary);
      CHECK(alone == with_gradient);
      CHECK(std::abs(alone - expected.loss) <= tolerance<T> * std::max(1.0, expected.loss));
      CHECK(scaled_difference(elements(dx), expected.grad_hidden) <= tolerance<T>);
      CHECK(scaled_difference(elements(weight.gradient()), expected.grad_weight) <= tolerance<T>);
      // In place over hidden, with a frozen weight.
      weight.trained = false;
      const Matrix<T> separate = std::move(dx);
      CHECK(loss.loss_and_gradient(x.view(), x.view(), weight, targets) == alone);
      CHECK(same_bits(elements(std::as_const(x)), elements(separate)));
      CHECK(pool.bytes_in_use() == 0);
    }
}

template <class T>
void check_cross_entropy() {
  for (const auto ignored : {every_fifth, none, all_but_two, a_prompt})
    check_cross_entropy<T>(ignored);
}

// A step in one batch, and the same step in calls with 4, 0, 12 and 1 labelled tokens.
template <class T>
void check_loss_of_several_calls() {
  constexpr Index tokens = 30, hidden = 6, vocabulary = 40, cuts[] = {0, 7, 12, 27, 30};
  MemoryPool pool(PoolFill::nan);
  Parameter<T> weight("w", vocabulary, hidden);
  randomise(weight, 1, -3, 3);
  const Matrix<T> x = random_matrix<T>(tokens, hidden, 2, -3, 3);
  std::vector<std::int32_t> targets;
  for (Index t = 0; t < tokens; ++t)
    targets.push_back(t < 3 || (t >= 7 && t < 15) || t >= 28
                          ? CrossEntropy<T>::ignore_index
                          : static_cast<std::int32_t>(t * 977 % vocabulary));
  CrossEntropy<T> loss(pool, 5);
  Matrix<T> wanted_x(tokens, hidden, pool);
  const double wanted = loss.loss_and_gradient(wanted_x.view(), x.view(), weight, targets);
  REQUIRE(loss.counted() == 17);
  CHECK(loss.mean() == wanted);
  CHECK(loss.sum() == Approx(17 * wanted).epsilon(1e-14));
  const std::vector<double> wanted_weight = as_doubles<T>(elements(weight.gradient()));

  for (const double divisor : {17.0, 1.0}) {  // 17 is right; with 1 the caller divides at the end
    CAPTURE(divisor);
    weight.drop_gradient();
    Matrix<T> dx(tokens, hidden, pool);
    double shares = 0, sum = 0, alone = 0;
    std::size_t counted = 0;
    for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
      const Index first = cuts[i], rows = cuts[i + 1] - first;
      const auto part = std::span(targets).subspan(static_cast<std::size_t>(first),
                                                   static_cast<std::size_t>(rows));
      const auto hidden_rows = x.view().rows_from(first, rows);
      shares += loss.loss_and_gradient(dx.view().rows_from(first, rows), hidden_rows, weight, part,
                                       divisor);
      sum += loss.sum(), counted += loss.counted();
      alone += loss.loss(hidden_rows, weight, part, divisor);
    }
    REQUIRE(counted == 17);
    const double rest = divisor / static_cast<double>(counted);  // the factor that remains
    CHECK(std::abs(shares * rest - wanted) <= tolerance<T> * wanted);
    CHECK(alone == shares);
    CHECK(std::abs(sum / static_cast<double>(counted) - wanted) <= tolerance<T> * wanted);
    Table scaled_x(dx.view()), scaled_weight(weight.gradient());
    for (double& value : scaled_x.values) value *= rest;
    for (double& value : scaled_weight.values) value *= rest;
    CHECK(scaled_difference(elements(wanted_x), scaled_x) <= tolerance<T>);
    CHECK(scaled_difference(wanted_weight, scaled_weight) <= tolerance<T>);
  }
}

template <class T>
std::uint64_t hash_of_parts() {
  Hash hash;
  const SequenceShape shape{2, 150};
  const HeadLayout layout{4, 2, 12};
  const Matrix<T> qkv = random_matrix<T>(300, layout.qkv_width(), 1),
                  grad_o = random_matrix<T>(300, layout.q_width(), 2);
  Matrix<T> o(300, layout.q_width()), lse(8, 150), grad_qkv(300, layout.qkv_width());
  attention_forward(o.view(), lse.data(), qkv.view(), layout, shape);
  attention_backward(grad_qkv.view(), grad_o.view(), qkv.view(), o.view(), lse.data(), layout,
                     shape);
  rope(grad_qkv.view(), RopeTable<T>(150, 12), 6, 150, Rotation::inverse);
  hash.add(elements(o)), hash.add(elements(lse)), hash.add(elements(grad_qkv));

  MemoryPool pool;
  Parameter<T> w("w", 1, 513), table("table", 700, 131), head("head", 1301, 131);
  randomise(w, 3), randomise(table, 4), randomise(head, 5);
  const Matrix<T> x = random_matrix<T>(333, 513, 6), dy = random_matrix<T>(333, 513, 7);
  Matrix<T> y(333, 513), rstd(1, 333), dx(333, 513);
  rms_norm_forward(y.view(), rstd.data(), x.view(), w.value().data, 1e-5);
  rms_norm_backward(dx.view(), Accumulate::overwrite, dy.view(), x.view(), w, rstd.data(), pool);
  hash.add(elements(y)), hash.add(elements(dx)), hash.add(elements(w.gradient()));

  const Matrix<T> gate_up = random_matrix<T>(333, 2 * 101, 8, -9, 9);
  Matrix<T> out(333, 101), grad_gate_up(333, 202);
  swiglu_forward(out.view(), gate_up.view());
  hash.add(elements(out));
  swiglu_backward(grad_gate_up.view(), out.view(), gate_up.view());
  hash.add(elements(grad_gate_up)), hash.add(elements(out));

  std::vector<std::int32_t> tokens;
  for (int t = 0; t < 400; ++t) tokens.push_back(t * t % 37);
  Matrix<T> embedded(400, 131);
  embedding_forward(embedded.view(), tokens, table);
  CrossEntropy<T> loss(pool, 128);
  const double mean = loss.loss_and_gradient(embedded.view(), embedded.view(), head, tokens);
  embedding_backward<T>(embedded.view(), tokens, table);
  hash.add(std::span(&mean, 1)), hash.add(elements(embedded));
  hash.add(elements(head.gradient())), hash.add(elements(table.gradient()));
  return hash.value();
}

}  // namespace

TEST_CASE("exp has an error of at most two units in the last place and is right at its ends") {
  check_exp<float>();
  check_exp<double>();
}

TEST_CASE("attention agrees with the full matrix of probabilities") {
  check_attention<float>(1);
  check_attention<double>(1);
  check_attention<double>(4);  // steep: the maximum moves from block to block
}

TEST_CASE("attention with a window and with packed samples agrees with the masked matrix") {
  check_masked_attention<float>();
  check_masked_attention<double>();
}

TEST_CASE("a packed sample's attention is that of the sample alone, whatever stands beside it") {
  const HeadLayout layout{4, 2, 12};
  const Matrix<float> alone = random_matrix<float>(60, layout.qkv_width(), 1),
                      grad_alone = random_matrix<float>(60, layout.q_width(), 2);
  Matrix<float> o(60, layout.q_width()), lse(4, 60), grad(60, layout.qkv_width());
  attention_forward(o.view(), lse.data(), alone.view(), layout, {1, 60});
  attention_backward(grad.view(), grad_alone.view(), alone.view(), o.view(), lse.data(), layout,
                     {1, 60});

  // In the second of two sequences, behind 37 other tokens and before 80.
  SequenceShape shape{2, 177};
  std::vector<std::int32_t> begin(354, 0);
  for (std::size_t i = 177 + 37; i < 354; ++i) begin[i] = i < 177 + 97 ? 37 : 97;
  shape.sample_begin = begin;
  Hash hashes[2];
  for (const std::size_t others : {0u, 1u}) {
    Matrix<float> qkv = random_matrix<float>(354, layout.qkv_width(), 3 + others, -9, 9),
                  grad_o = random_matrix<float>(354, layout.q_width(), 5 + others);
    Matrix<float> all_o(354, layout.q_width()), all_lse(8, 177), all_grad(354, layout.qkv_width());
    const auto sample = [](auto& x) { return x.view().rows_from(177 + 37, 60); };
    copy<float>(sample(qkv), alone.view());
    copy<float>(sample(grad_o), grad_alone.view());
    attention_forward(all_o.view(), all_lse.data(), qkv.view(), layout, shape);
    attention_backward(all_grad.view(), grad_o.view(), qkv.view(), all_o.view(), all_lse.data(),
                       layout, shape);
    CHECK(scaled_difference(elements(sample(all_o)), elements(o.view())) <= tolerance<float>);
    CHECK(scaled_difference(elements(sample(all_grad)), elements(grad.view())) <=
          4 * tolerance<float>);
    hashes[others].add(elements(sample(all_o)));
    hashes[others].add(elements(sample(all_grad)));
  }
  CHECK(hashes[0].value() == hashes[1].value());
}

TEST_CASE("attention of the last rows alone is that of the whole, and rope may begin anywhere") {
  for (const Index window : {0, 20}) {
    const HeadLayout layout{4, 2, 12, window};
    const Matrix<double> qkv = random_matrix<double>(500, layout.qkv_width(), 1, -3, 3);
    Matrix<double> whole(500, layout.q_width()), lse(4, 500);
    attention_forward(whole.view(), lse.data(), qkv.view(), layout, {1, 500});
    for (const Index rows : {1, 7, 48, 130, 500}) {
      Matrix<double> last(rows, layout.q_width());
      attention_forward_last<double>(last.view(), qkv.view(), layout);
      const auto expected = std::as_const(whole).view().rows_from(500 - rows, rows);
      double most = 0.0;
      for (Index t = 0; t < rows; ++t)
        for (Index j = 0; j < layout.q_width(); ++j)
          most = std::max(most, std::abs(last.row(t)[j] - expected.row(t)[j]));
      CAPTURE(window, rows, most);
      CHECK(most <= 1e-14);
    }
    Matrix<double> none(0, layout.q_width()), many(501, layout.q_width());
    CHECK_THROWS_AS(attention_forward_last<double>(none.view(), qkv.view(), layout),
                    std::invalid_argument);
    CHECK_THROWS_AS(attention_forward_last<double>(many.view(), qkv.view(), layout),
                    std::invalid_argument);
  }
  const RopeTable<double> table(30, 6);
  Matrix<double> all = random_matrix<double>(30, 12, 2), part(11, 12);
  copy<double>(part.view(), all.view().rows_from(19, 11));
  rope(all.view(), table, 2, 30, Rotation::forward);
  rope(part.view(), table, 2, 11, Rotation::forward, 19);
  CHECK(std::equal(part.data(), part.data() + part.size(), all.row(19)));
}

TEST_CASE("attention names a wrong window and wrong samples") {
  Matrix<float> qkv = random_matrix<float>(6, 12, 1), o(6, 4), lse(1, 6);
  const auto message = [&](Index window, std::vector<std::int32_t> begin) {
    return invalid_message([&] {
      attention_forward(o.view(), lse.data(), qkv.view(), {1, 1, 4, window}, {2, 3, begin});
    });
  };
  CHECK(message(2, {0, 0, 2, 0, 1, 1}).empty());
  CHECK(contains(message(-1, {}), "-1 was given"));
  CHECK(contains(message(0, {0, 0, 0}), "3 were given"));
  CHECK(contains(message(0, {0, 0, 0, 0, 2, 0}), "position 1 of sequence 1 begins at 2"));
  CHECK(contains(message(0, {-1, 0, 0, 0, 0, 0}), "begins at -1"));
}

TEST_CASE("rms_norm agrees with its formula") {
  check_rms_norm<float>();
  check_rms_norm<double>();
}

TEST_CASE("a chunk's logits take at most 256 MiB of floats unless it has only 256 tokens") {
  using Loss = CrossEntropy<float>;
  CHECK(Loss::chunk_tokens_for(1) == 1024);
  CHECK(Loss::chunk_tokens_for(65536) == 1024);
  CHECK(Loss::chunk_tokens_for(65537) == 1023);
  CHECK(Loss::chunk_tokens_for(128256) == 523);
  CHECK(Loss::chunk_tokens_for(262144) == 256);
  CHECK(Loss::chunk_tokens_for(1 << 30) == 256);
}

TEST_CASE("cross-entropy agrees with its formula for any chunk size") {
  check_cross_entropy<float>();
  check_cross_entropy<double>();
}

TEST_CASE("with a divisor, cross-entropy over several calls equals that of one call") {
  check_loss_of_several_calls<float>();
  check_loss_of_several_calls<double>();
}

TEST_CASE("cross-entropy of only ignored positions is 0, and large logits do not overflow") {
  MemoryPool pool(PoolFill::nan);
  Parameter<float> weight("w", 5, 2);
  randomise(weight, 1);
  Matrix<float> x = random_matrix<float>(3, 2, 2), dx(3, 2, pool);
  const std::vector<std::int32_t> ignored(3, -100), targets{0, 4, 2};
  CrossEntropy<float> loss(pool);
  CHECK(loss.loss_and_gradient(dx.view(), x.view(), weight, ignored) == 0);
  for (const float g : elements(dx)) CHECK(g == 0.0f);
  for (const float g : elements(weight.gradient())) CHECK(g == 0.0f);
  CHECK(loss.loss(x.view(), weight, ignored, 0.0) == 0);  // a step without labels
  for (float& value : elements(x)) value *= 1e6f;
  CHECK(std::isfinite(loss.loss(x.view(), weight, targets)));
}

TEST_CASE("rope rotates like complex numbers, and its inverse reverses it") {
  const Index sequence = 37, heads = 3, head_size = 10;
  Matrix<double> x = random_matrix<double>(2 * sequence, heads * head_size + 4, 1);
  Table expected(x.view());
  reference::rope(expected, heads, head_size, sequence, 5000.0);
  const Matrix<double> before = clone(x);
  const RopeTable<double> table(64, head_size, 5000.0);
  rope(x.view(), table, heads, sequence, Rotation::forward);
  CHECK(scaled_difference(elements(x), expected) <= 1e-13);
  rope(x.view(), table, heads, sequence, Rotation::inverse);
  CHECK(scaled_difference(elements(x), elements(before)) <= 1e-14);
}

TEST_CASE("swiglu agrees with its formula and is right at its ends") {
  const Matrix<float> gate_up = random_matrix<float>(19, 2 * 37, 1, -20, 20);
  Matrix<float> out(19, 37), again = random_matrix<float>(19, 37, 2), grad(19, 2 * 37);
  swiglu_forward(out.view(), gate_up.view());
  CHECK(scaled_difference(elements(out), reference::swiglu(Table(gate_up.view()))) <=
        tolerance<float>);
  swiglu_backward(grad.view(), again.view(), gate_up.view());
  CHECK(same_bits(elements(out), elements(again)));

  Matrix<float> ends(1, 4), result(1, 2), one(1, 2), grad_ends(1, 4);
  const float far[] = {-1e30f, 1e30f, 1.0f, 1.0f};
  std::copy(far, far + 4, ends.data());
  swiglu_forward(result.view(), ends.view());
  CHECK(result.data()[0] == 0.0f);
  CHECK(result.data()[1] == 1e30f);
  std::fill_n(one.data(), 2, 1.0f);
  swiglu_backward(grad_ends.view(), one.view(), ends.view());
  CHECK(grad_ends.data()[0] == 0.0f);
  CHECK(grad_ends.data()[1] == 1.0f);
}

TEST_CASE("embedding adds the gradients of equal tokens in their order") {
  Parameter<float> weight("w", 5, 67);
  randomise(weight, 1);
  const std::vector<std::int32_t> ids{3, 0, 3, 3, 4};
  const Matrix<float> dy = random_matrix<float>(5, 67, 2);
  Matrix<float> out(5, 67);
  embedding_forward(out.view(), ids, weight);
  for (Index t = 0; t < 5; ++t)
    for (Index j = 0; j < 67; ++j)
      CHECK(out.row(t)[j] == weight.value().row(ids[static_cast<std::size_t>(t)])[j]);
  embedding_backward<float>(dy.view(), ids, weight);
  for (Index j = 0; j < 67; ++j) {
    CHECK(weight.gradient().row(3)[j] == (dy.row(0)[j] + dy.row(2)[j]) + dy.row(3)[j]);
    CHECK(weight.gradient().row(1)[j] == 0.0f);
  }
  embedding_backward<float>(dy.view(), ids, weight);
  for (Index j = 0; j < 67; ++j) CHECK(weight.gradient().row(0)[j] == dy.row(1)[j] + dy.row(1)[j]);
  weight.drop_gradient();
  weight.trained = false;
  embedding_backward<float>(dy.view(), ids, weight);
  CHECK_FALSE(weight.has_gradient());
}

TEST_CASE("the parts have the same bits on 1, 2, 3 and 8 threads") {
  const ThreadsGuard guard;
  std::uint64_t floats = 0, doubles = 0;
  for (const int threads : thread_counts) {
    use_threads(threads);
    const std::uint64_t f = hash_of_parts<float>(), d = hash_of_parts<double>();
    if (threads == 1) floats = f, doubles = d;
    CAPTURE(threads);
    CHECK(f == floats);
    CHECK(d == doubles);
  }
}

TEST_CASE("the parts name bad tokens and shapes") {
  MemoryPool pool;
  Parameter<float> weight("w", 10, 3);
  Matrix<float> x = random_matrix<float>(4, 3, 1);
  const std::vector<std::int32_t> ids{1, 2, 10, 3}, negative{0, -1, 0, 0}, three{0, 1, 2};
  const std::string too_large = invalid_message([&] { embedding_forward(x.view(), ids, weight); });
  CAPTURE(too_large);
  CHECK(contains(too_large, "[0, 10)"));
  CHECK(contains(too_large, "id 10 stands at position 2"));
  CHECK(contains(invalid_message([&] { embedding_backward<float>(x.view(), negative, weight); }),
                 "id -1 stands at position 1"));
  CHECK_FALSE(weight.has_gradient());
  CHECK(contains(invalid_message([&] { embedding_forward(x.view(), three, weight); }),
                 "4 rows for 3 tokens"));
  CrossEntropy<float> loss(pool);
  CHECK(contains(invalid_message([&] { loss.loss(x.view(), weight, ids); }),
                 "id 10 stands at position 2"));
  CHECK(contains(invalid_message([&] { loss.loss(x.view(), weight, negative); }),
                 "id -1 stands at position 1"));
  CHECK(contains(invalid_message([&] { loss.loss(x.view(), weight, three); }), "[3, 3]"));
  const std::vector<std::int32_t> right{1, 2, -100, 3};
  for (const double divisor : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()})
    CHECK(contains(invalid_message([&] { loss.loss(x.view(), weight, right, divisor); }),
                   "must be finite and above 0"));
  CHECK(contains(invalid_message([&] { CrossEntropy<float>(pool, 0); }), "0 was given"));
  loss.begin(right, 10);
  CHECK(
      contains(invalid_message([&] { loss.forward_chunk(1, x.view(), weight, false); }), "[0, 1)"));
  CHECK(contains(invalid_message([] { RopeTable<float>(8, 5); }), "5 was given"));
  try {
    CrossEntropy<float>(pool).backward_chunk(0, x.view(), x.view(), weight);
    CHECK(false);
  } catch (const std::invalid_argument&) {
    CHECK(false);
  } catch (const std::logic_error& error) {
    CHECK(contains(error.what(), "none are kept"));
  }
}
