// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Both branches as Operations: compared with plain double arithmetic, and tested for what a layer
// relies on.
#include <memory>
#include <utility>

#include "dropbp/operation.hpp"
#include "dropbp/ops/attention_branch.hpp"
#include "dropbp/ops/linear.hpp"
#include "dropbp/ops/swiglu_branch.hpp"
#include "ops/ops_test.hpp"
#include "ops/reference.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;
using reference::Table;

static_assert(dropbp::Operation<AttentionBranch<float>, Matrix<float>, const SequenceShape&>);
static_assert(dropbp::Operation<SwiGLUBranch<double>, Matrix<double>, const SequenceShape&>);
static_assert(dropbp::Operation<Linear<float>, Matrix<float>>);

namespace {

const AttentionConfig attention_config{48, 6, 2, 10, 1e-5};
const SwiGLUConfig swiglu_config{48, 101, 1e-5};
constexpr SequenceShape usual_shape{2, 70};

// One branch with its pools. The tests treat both kinds alike.
template <class Branch>
struct Fixture;

template <class T>
struct Fixture<AttentionBranch<T>> {
  BranchMemory memory;
  AttentionBranch<T> branch;
  explicit Fixture(PoolFill fill = PoolFill::nothing)
      : memory{MemoryPool(fill), MemoryPool(fill)},
        branch(attention_config, std::make_shared<const RopeTable<T>>(128, 10), memory,
               "model.layers.3.") {
    randomise(branch.norm, 1, 0.5, 1.5), randomise(branch.qkv.weight, 2, -0.4, 0.4),
        randomise(branch.o.weight, 3);
  }
  static std::size_t saved_bytes(Index tokens) {
    return AttentionBranch<T>::saved_bytes(attention_config, tokens);
  }
  static std::vector<std::string> names() {
    return {"model.layers.3.input_layernorm.weight", "model.layers.3.self_attn.q_proj.weight",
            "model.layers.3.self_attn.k_proj.weight", "model.layers.3.self_attn.v_proj.weight",
            "model.layers.3.self_attn.o_proj.weight"};
  }
  Table expected(const Table& x, const SequenceShape& shape) {
    const HeadLayout layout = attention_config.layout();
    Table qkv = reference::linear(reference::rms_norm(x, Table(branch.norm.value()), 1e-5),
                                  Table(branch.qkv.weight.value()));
    reference::rope(qkv, layout.heads + layout.kv_heads, layout.head_size, shape.sequence, 10000.0);
    const Table no_gradient(x.rows, layout.q_width());
    return reference::linear(reference::attention(qkv, no_gradient, layout, shape).o,
                             Table(branch.o.weight.value()));
  }
};

template <class T>
struct Fixture<SwiGLUBranch<T>> {
  BranchMemory memory;
  SwiGLUBranch<T> branch;
  explicit Fixture(PoolFill fill = PoolFill::nothing)
      : memory{MemoryPool(fill), MemoryPool(fill)},
        branch(swiglu_config, memory, "model.layers.3.") {
    randomise(branch.norm, 1, 0.5, 1.5), randomise(branch.gate_up.weight, 2),
        randomise(branch.down.weight, 3, -0.4, 0.4);
  }
  static std::size_t saved_bytes(Index tokens) {
    return SwiGLUBranch<T>::saved_bytes(swiglu_config, tokens);
  }
  static std::vector<std::string> names() {
    return {"model.layers.3.post_attention_layernorm.weight", "model.layers.3.mlp.gate_proj.weight",
            "model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.down_proj.weight"};
  }
  Table expected(const Table& x, const SequenceShape&) {
    const Table n = reference::rms_norm(x, Table(branch.norm.value()), 1e-5);
    return reference::linear(
        reference::swiglu(reference::linear(n, Table(branch.gate_up.weight.value()))),
        Table(branch.down.weight.value()));
  }
};

template <class Branch>
std::vector<double> gradients(Branch& branch) {
  std::vector<double> all;
  branch.for_each_parameter([&](auto& parameter) {
    if (!parameter.has_gradient()) return;
    for (const auto value : elements(parameter.gradient()))
      all.push_back(static_cast<double>(value));
  });
  return all;
}

template <class Branch>
void drop_gradients(Branch& branch) {
  branch.for_each_parameter([](auto& parameter) { parameter.drop_gradient(); });
}

template <class Branch>
void train(Branch& branch, bool norm, bool input_projection, bool output_projection) {
  const bool trained[] = {norm, input_projection, output_projection};
  int i = 0;
  branch.for_each_parameter([&](auto& parameter) { parameter.trained = trained[i++]; });
}

template <template <class> class Branch, class T>
void check_forward() {
  for (const SequenceShape shape : {usual_shape, SequenceShape{1, 1}, SequenceShape{3, 128}}) {
    Fixture<Branch<T>> fixture(PoolFill::nan);
    const Matrix<T> x = random_matrix<T>(shape.tokens(), 48, 7);
    typename Branch<T>::Saved saved;
    const Matrix<T> y = fixture.branch.forward(x, &saved, shape);
    CHECK(scaled_difference(elements(y), fixture.expected(Table(x.view()), shape)) <=
          (sizeof(T) == 4 ? 5e-6 : 1e-13));
    CHECK_FALSE(any_nan(elements(y)));

    // Saved or not, the bits are equal. In place the result is x + y up to the rounding of one more
    // addition per element.
    const Matrix<T> evaluated = fixture.branch.forward(x, nullptr, shape);
    CHECK(same_bits(elements(y), elements(evaluated)));
    Matrix<T> kept = clone(x), dropped = clone(x);
    fixture.branch.forward_residual(kept, &saved, shape);
    fixture.branch.forward_residual(dropped, nullptr, shape);
    CHECK(same_bits(elements(kept), elements(dropped)));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double sum = static_cast<double>(x.data()[i]) + static_cast<double>(y.data()[i]);
      REQUIRE(std::abs(static_cast<double>(kept.data()[i]) - sum) <= 1e-6 * (1 + std::abs(sum)));
    }
    CHECK(same_bits(elements(std::as_const(saved.x)), elements(x)));
  }
}

template <template <class> class Branch, class T>
void check_backward() {
  Fixture<Branch<T>> fixture(PoolFill::nan);
  auto& branch = fixture.branch;
  const Matrix<T> x = random_matrix<T>(usual_shape.tokens(), 48, 7),
                  dy = random_matrix<T>(usual_shape.tokens(), 48, 8);
  typename Branch<T>::Saved saved;
  branch.forward(x, &saved, usual_shape);
  const Matrix<T> dx = branch.backward(dy, saved, usual_shape);
  const std::vector<double> once = gradients(branch);
  CHECK_FALSE(any_nan(elements(dx)));
  CHECK_FALSE(any_nan(once));

  // A second run on the same saved state: equal bits, and the parameters' gradients accumulate.
  const Matrix<T> again = branch.backward(dy, saved, usual_shape);
  CHECK(same_bits(elements(dx), elements(again)));
  const std::vector<double> twice = gradients(branch);
  REQUIRE(twice.size() == once.size());
  for (std::size_t i = 0; i < once.size(); ++i)
    REQUIRE(std::abs(twice[i] - 2 * once[i]) <= 1e-5 * (1 + std::abs(once[i])));

  // In place the result is the sum. The parameters' gradients have the same bits.
  drop_gradients(branch);
  Matrix<T> grad = clone(dy);
  branch.backward_residual(grad, saved, usual_shape);
  CHECK(gradients(branch) == once);
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const double sum = static_cast<double>(dx.data()[i]) + static_cast<double>(dy.data()[i]);
    REQUIRE(std::abs(static_cast<double>(grad.data()[i]) - sum) <= 1e-6 * (1 + std::abs(sum)));
  }

  // Only the parameters: the same bits again.
  drop_gradients(branch);
  branch.backward_parameters(dy, saved, usual_shape);
  CHECK(gradients(branch) == once);
}

template <template <class> class Branch, class T>
void check_frozen() {
  Fixture<Branch<T>> fixture(PoolFill::nan);
  auto& branch = fixture.branch;
  const Matrix<T> x = random_matrix<T>(usual_shape.tokens(), 48, 7),
                  dy = random_matrix<T>(usual_shape.tokens(), 48, 8);
  typename Branch<T>::Saved saved;
  branch.forward(x, &saved, usual_shape);
  const Matrix<T> dx = branch.backward(dy, saved, usual_shape);
  const std::vector<double> everything = gradients(branch);
  for (int mask = 0; mask < 8; ++mask) {
    drop_gradients(branch);
    train(branch, mask & 1, mask & 2, mask & 4);
    std::vector<double> expected;
    std::size_t offset = 0;
    int i = 0;
    branch.for_each_parameter([&](auto& parameter) {
      const auto first = everything.begin() + static_cast<std::ptrdiff_t>(offset);
      if (mask >> i & 1)
        expected.insert(expected.end(), first,
                        first + static_cast<std::ptrdiff_t>(parameter.size()));
      offset += parameter.size(), ++i;
    });
    CAPTURE(mask);
    const Matrix<T> frozen_dx = branch.backward(dy, saved, usual_shape);
    CHECK(same_bits(elements(dx), elements(frozen_dx)));
    CHECK(gradients(branch) == expected);
    drop_gradients(branch);
    branch.backward_parameters(dy, saved, usual_shape);
    CHECK(gradients(branch) == expected);
  }
}

template <template <class> class Branch, class T>
void check_memory() {
  Fixture<Branch<T>> fixture;
  auto& branch = fixture.branch;
  MemoryPool &saved_pool = fixture.memory.saved, &workspace = fixture.memory.workspace;
  std::size_t saved_allocations = 0, workspace_allocations = 0, workspace_peak = 0;
  for (int step = 0; step < 4; ++step) {
    Matrix<T> x = random_matrix<T>(usual_shape.tokens(), 48, 7),
              grad = random_matrix<T>(usual_shape.tokens(), 48, 8);
    workspace.reset_peak();
    {
      typename Branch<T>::Saved saved;
      branch.forward_residual(x, &saved, usual_shape);
      CHECK(saved_pool.bytes_in_use() == Fixture<Branch<T>>::saved_bytes(usual_shape.tokens()));
      CHECK(workspace.bytes_in_use() == 0);
      branch.backward_residual(grad, saved, usual_shape);
    }
    branch.forward_residual(x, nullptr, usual_shape);  // dropped: nothing is saved
    CHECK(saved_pool.bytes_in_use() == 0);
    CHECK(workspace.bytes_in_use() == 0);
    if (step > 0) {
      CHECK(saved_pool.allocations() == saved_allocations);
      CHECK(workspace.allocations() == workspace_allocations);
      CHECK(workspace.peak_bytes() == workspace_peak);
    }
    saved_allocations = saved_pool.allocations(), workspace_allocations = workspace.allocations();
    workspace_peak = workspace.peak_bytes();
  }
}

template <template <class> class Branch, class T>
void check_threads() {
  const ThreadsGuard guard;
  std::uint64_t first = 0;
  for (const int threads : thread_counts) {
    use_threads(threads);
    for (int run = 0; run < 2; ++run) {
      Fixture<Branch<T>> fixture;
      Matrix<T> x = random_matrix<T>(usual_shape.tokens(), 48, 7),
                grad = random_matrix<T>(usual_shape.tokens(), 48, 8);
      typename Branch<T>::Saved saved;
      fixture.branch.forward_residual(x, &saved, usual_shape);
      fixture.branch.backward_residual(grad, saved, usual_shape);
      Hash hash;
      hash.add(elements(x)), hash.add(elements(grad));
      const std::vector<double> all = gradients(fixture.branch);
      hash.add(std::span(all));
      if (threads == 1 && run == 0) first = hash.value();
      CAPTURE(threads, run);
      CHECK(hash.value() == first);
    }
  }
}

template <template <class> class Branch>
void check_names_and_errors() {
  Fixture<Branch<float>> fixture;
  std::vector<std::string> names;
  fixture.branch.for_each_parameter([&](auto& parameter) {
    parameter.for_each_slice([&](const auto& slice) { names.push_back(slice.name); });
  });
  CHECK(names == fixture.names());

  typename Branch<float>::Saved saved;
  Matrix<float> x = random_matrix<float>(6, 48, 1), narrow = random_matrix<float>(6, 47, 1);
  const std::string message =
      invalid_message([&] { fixture.branch.forward(narrow, nullptr, {2, 3}); });
  CAPTURE(message);
  CHECK(contains(message, "hidden 48"));
  CHECK(contains(message, "[6, 47] with batch 2 and sequence 3"));
  CHECK(contains(invalid_message([&] { fixture.branch.forward_residual(x, nullptr, {2, 2}); }),
                 "[6, 48]"));
  CHECK(
      contains(invalid_message([&] { fixture.branch.backward(x, saved, {2, 3}); }), "0 are saved"));
  CHECK(gradients(fixture.branch).empty());
}

}  // namespace

#define DROPBP_TEST_BOTH(name, check)    \
  TEST_CASE("attention branch: " name) { \
    check<AttentionBranch, float>();     \
    check<AttentionBranch, double>();    \
  }                                      \
  TEST_CASE("SwiGLU branch: " name) {    \
    check<SwiGLUBranch, float>();        \
    check<SwiGLUBranch, double>();       \
  }

DROPBP_TEST_BOTH("forward agrees with plain arithmetic, saved or not, in place or not",
                 check_forward)
DROPBP_TEST_BOTH("backward can be repeated, joined in place and cut to the parameters",
                 check_backward)
DROPBP_TEST_BOTH("frozen parameters get no gradient and change no other gradient", check_frozen)
DROPBP_TEST_BOTH("saved bytes are as stated and steady steps allocate nothing", check_memory)
DROPBP_TEST_BOTH("same bits on 1, 2, 3 and 8 threads and from run to run", check_threads)

TEST_CASE(
    "SwiGLU branch: if only down_proj trains and no input gradient is needed, nothing below it is "
    "computed") {
  const Index tokens = usual_shape.tokens();
  const LoraConfig down_alone{.rank = 3, .targets = {"down_proj"}};
  for (const bool adapters : {true, false}) {
    CAPTURE(adapters);
    BranchMemory memory{MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)};
    SwiGLUBranch<float> branch({48, 101, 1e-5, adapters ? down_alone : LoraConfig{}}, memory);
    branch.norm.trained = false;
    branch.gate_up.weight.trained = false;
    randomise(branch.norm, 1, 0.5, 1.5), randomise(branch.gate_up.weight, 2),
        randomise(branch.down.weight, 3, -0.4, 0.4);
    if (adapters) randomise(branch.down.lora_a, 4), randomise(branch.down.lora_b, 5);
    SwiGLUBranch<float>::Saved saved;
    branch.forward(random_matrix<float>(tokens, 48, 6), &saved, usual_shape);
    const Matrix<float> grad_output = random_matrix<float>(tokens, 48, 7);
    branch.backward(grad_output, saved, usual_shape);
    const std::vector<double> complete = gradients(branch);
    CHECK_FALSE(complete.empty());
    drop_gradients(branch);
    memory.workspace.reset_peak();
    branch.backward_parameters(grad_output, saved, usual_shape);
    CHECK(gradients(branch) == complete);
    // The activation and the adapter's gradient. There is no room for a gradient of gate and up.
    const std::size_t bytes =
        static_cast<std::size_t>(tokens * (101 + (adapters ? 3 : 0))) * sizeof(float);
    CHECK(memory.workspace.peak_bytes() == memory.workspace.bytes_in_use() + bytes);
  }
}

TEST_CASE("branches name their parameters as Hugging Face does and refuse wrong ones") {
  check_names_and_errors<AttentionBranch>();
  check_names_and_errors<SwiGLUBranch>();
}

TEST_CASE("impossible sizes of a branch are refused") {
  const BranchMemory memory;
  const auto table = std::make_shared<const RopeTable<float>>(16, 8);
  const auto attention = [&](AttentionConfig config) {
    return invalid_message([&] { AttentionBranch<float> branch(config, table, memory); });
  };
  CHECK(attention({32, 4}).empty());
  CHECK(contains(attention({32, 4, 3}), "kv_heads 3"));
  CHECK(contains(attention({33, 4}), "hidden 33"));
  CHECK(contains(attention({32, 0}), "heads 0"));
  CHECK(attention({32, 2}).empty());  // the table rotates a part of each head
  CHECK(contains(attention({32, 8}), "head_size 4"));
  CHECK(contains(invalid_message([&] { SwiGLUBranch<float> branch({8, 0}, memory); }), "8 and 0"));
  AttentionBranch<float> branch({32, 4}, table, memory);
  const Matrix<float> x = random_matrix<float>(17, 32, 1);
  CHECK(contains(invalid_message([&] { branch.forward(x, nullptr, {1, 17}); }), "(16), but 17"));
}
