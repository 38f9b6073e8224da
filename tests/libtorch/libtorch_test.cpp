// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Torch modules with dropped branches, compared with the published way: compute the same branch
// with autograd, then detach it. All tests are in one file, because every file must include
// libtorch.
#include <torch/autograd.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <dropbp/interop/libtorch.hpp>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#undef CHECK  // CHECK of glog; Catch2 defines its own
#include "support/catch.hpp"

namespace {

using torch::Tensor;
using Mask = std::vector<std::uint8_t>;

constexpr std::int64_t width = 12, heads = 3, length = 5, batch = 2, vocabulary = 17;

// An attention and an MLP branch with dropout. If `detached` is set, the block is the reference: it
// detaches the outputs of the marked branches and does not use the TorchBranches.
struct BlockImpl : torch::nn::Module {
  torch::nn::LayerNorm norm1{nullptr}, norm2{nullptr};
  torch::nn::Linear qkv{nullptr}, out{nullptr}, up{nullptr}, down{nullptr};
  torch::nn::Dropout dropout{nullptr};
  dropbp::TorchBranch drop_attention{*this, "drop_attention", 4.0},
      drop_mlp{*this, "drop_mlp", 2.0};
  const std::uint8_t* detached = nullptr;

  BlockImpl() {
    norm1 = register_module("norm1", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    norm2 = register_module("norm2", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    qkv = register_module("qkv", torch::nn::Linear(width, 3 * width));
    out = register_module("out", torch::nn::Linear(width, width));
    up = register_module("up", torch::nn::Linear(width, 2 * width));
    down = register_module("down", torch::nn::Linear(2 * width, width));
    dropout = register_module("dropout", torch::nn::Dropout(0.25));
  }

  Tensor attention(const Tensor& x) {
    const auto parts = qkv(norm1(x))
                           .view({batch, length, 3, heads, width / heads})
                           .permute({2, 0, 3, 1, 4})
                           .unbind(0);
    const Tensor weights = torch::softmax(parts[0].matmul(parts[1].transpose(-1, -2)) / 2.0, -1);
    return out(dropout(weights).matmul(parts[2]).transpose(1, 2).reshape({batch, length, width}));
  }
  Tensor mlp(const Tensor& x) { return dropout(down(torch::gelu(up(norm2(x))))); }

  Tensor forward(Tensor x) {
    if (detached != nullptr) {
      const auto cut = [](const Tensor& f, bool dropped) { return dropped ? f.detach() : f; };
      x = x + cut(attention(x), detached[0] != 0);
      return x + cut(mlp(x), detached[1] != 0);
    }
    x = x + drop_attention([&] { return attention(x); });
    return x + drop_mlp([&] { return mlp(x); });
  }
};
TORCH_MODULE(Block);

// Runs a block without autograd, and again in the backward pass.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static Tensor forward(torch::autograd::AutogradContext* context, Tensor x, BlockImpl* block,
                        Tensor generator) {
    context->saved_data["block"] = reinterpret_cast<std::int64_t>(block);
    context->save_for_backward({x, std::move(generator)});
    return block->forward(x);
  }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list grad_output) {
    auto* block = reinterpret_cast<BlockImpl*>(context->saved_data["block"].toInt());
    const auto saved = context->get_saved_variables();
    const torch::AutoGradMode on(true);
    const Tensor x = saved[0].detach().requires_grad_();
    auto generator = at::detail::getDefaultCPUGenerator();
    generator.set_state(saved[1]);  // repeats the dropout
    torch::autograd::backward({block->forward(x)}, {grad_output[0]});
    return {x.grad(), Tensor(), Tensor()};
  }
};

struct NetImpl : torch::nn::Module {
  torch::nn::Embedding embedding{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  torch::nn::Linear head{nullptr};
  bool recomputes = false;

  explicit NetImpl(int count = 2) {
    torch::manual_seed(1);
    embedding = register_module("embedding", torch::nn::Embedding(vocabulary, width));
    blocks = register_module("blocks", torch::nn::ModuleList());
    for (int i = 0; i < count; ++i) blocks->push_back(Block());
    head = register_module("head", torch::nn::Linear(width, vocabulary));
  }
  BlockImpl& block(std::size_t i) { return *blocks->ptr<BlockImpl>(i); }
  dropbp::TorchBranch& branch(std::size_t i) {
    return i % 2 == 0 ? block(i / 2).drop_attention : block(i / 2).drop_mlp;
  }
  void detach(const Mask& mask) {
    for (std::size_t i = 0; i < blocks->size(); ++i) block(i).detached = &mask[2 * i];
  }
  Tensor forward(const Tensor& tokens) {
    Tensor x = embedding(tokens);
    for (std::size_t i = 0; i < blocks->size(); ++i)
      x = recomputes
              ? Recomputed::apply(x, &block(i), at::detail::getDefaultCPUGenerator().get_state())
              : block(i).forward(x);
    return head(x);
  }
  Tensor loss(const Tensor& tokens) {
    return torch::nn::functional::cross_entropy(forward(tokens).view({-1, vocabulary}),
                                                tokens.flip(0).view({-1}));
  }
};
TORCH_MODULE(Net);

Tensor tokens_of(int number) {
  return (torch::arange(batch * length) * (number + 3) % vocabulary).view({batch, length});
}

Mask mask_of(unsigned bits, std::size_t size = 4) {
  Mask mask(size);
  for (std::size_t i = 0; i < size; ++i) mask[i] = (bits >> i) & 1u;
  return mask;
}

Mask mask_of(const dropbp::DropPlan& plan) {
  Mask mask(plan.size());
  for (std::size_t i = 0; i < plan.size(); ++i) mask[i] = plan.dropped(i);
  return mask;
}

std::vector<Tensor> gradients_of(torch::nn::Module& module) {
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : module.parameters())
    gradients.push_back(parameter.grad().defined() ? parameter.grad().clone() : Tensor());
  return gradients;
}

// Equal bits, and undefined in the same places.
bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i].defined() != b[i].defined() || (a[i].defined() && !torch::equal(a[i], b[i])))
      return false;
  return true;
}

// Every pass uses the same dropout.
double backprop(NetImpl& net, int number = 0) {
  torch::manual_seed(100u + static_cast<unsigned>(number));
  const Tensor loss = net.loss(tokens_of(number));
  dropbp::backward(loss);
  return loss.item<double>();
}

std::vector<Tensor> parameters_of_branch(NetImpl& net, std::size_t i) {
  BlockImpl& block = net.block(i / 2);
  std::vector<Tensor> parameters;
  const auto add = [&](torch::nn::Module& module) {
    for (const Tensor& one : module.parameters()) parameters.push_back(one);
  };
  if (i % 2 == 0) add(*block.norm1), add(*block.qkv), add(*block.out);
  if (i % 2 == 1) add(*block.norm2), add(*block.up), add(*block.down);
  return parameters;
}

// All parameters in the graph of `loss`.
std::set<const void*> reached(const Tensor& loss) {
  std::set<const void*> leaves, nodes;
  const std::function<void(torch::autograd::Node*)> walk = [&](torch::autograd::Node* node) {
    if (node == nullptr || !nodes.insert(node).second) return;
    if (const auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node))
      leaves.insert(leaf->variable.unsafeGetTensorImpl());
    for (const auto& edge : node->next_edges()) walk(edge.function.get());
  };
  walk(loss.grad_fn().get());
  return leaves;
}

}  // namespace

TEST_CASE("under every plan losses and gradients have the bits of detached branches") {
  Net ours, theirs;
  dropbp::TorchModel model(*ours);
  dropbp::DropBPHandler handler(model);
  for (unsigned bits = 0; bits < 16; ++bits) {
    const Mask mask = mask_of(bits);
    theirs->detach(mask);
    dropbp::clear_gradients(*ours);
    dropbp::clear_gradients(*theirs);
    handler.begin_step(dropbp::DropPlan(mask));
    CHECK(backprop(*ours) == backprop(*theirs));
    CHECK(same(gradients_of(*ours), gradients_of(*theirs)));
  }
}

TEST_CASE("a dropped branch has no graph and its parameters no gradient") {
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model);
  const Mask mask{1, 0, 0, 1};
  handler.begin_step(dropbp::DropPlan(mask));
  const Tensor loss = net->loss(tokens_of(0));
  const std::set<const void*> leaves = reached(loss);
  loss.backward();
  for (std::size_t i = 0; i < 4; ++i) {
    for (const Tensor& parameter : parameters_of_branch(*net, i)) {
      CHECK(parameter.grad().defined() == (mask[i] == 0));
      CHECK((leaves.count(parameter.unsafeGetTensorImpl()) == 1) == (mask[i] == 0));
    }
    bool recorded = false;
    const Tensor f = net->branch(i)([&] {
      recorded = torch::GradMode::is_enabled();
      return net->block(i / 2).mlp(torch::ones({batch, length, width}));
    });
    CHECK(recorded == (mask[i] == 0));
    CHECK(f.requires_grad() == (mask[i] == 0));
    CHECK((f.grad_fn() != nullptr) == (mask[i] == 0));
  }
  CHECK(torch::GradMode::is_enabled());
  CHECK(net->embedding->weight.grad().defined());
}

TEST_CASE("an optimizer leaves dropped branches alone") {
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model);
  torch::optim::AdamW optimizer(net->parameters(),
                                torch::optim::AdamWOptions(0.1).weight_decay(0.5));
  handler.begin_step(dropbp::DropPlan(mask_of(0)));
  backprop(*net);
  optimizer.step();  // moments that would move a parameter even without a gradient
  dropbp::clear_gradients(optimizer);
  const Mask mask = mask_of(0b0110);
  handler.begin_step(dropbp::DropPlan(mask));
  std::vector<std::vector<Tensor>> before(4);
  for (std::size_t i = 0; i < 4; ++i)
    for (const Tensor& one : parameters_of_branch(*net, i))
      before[i].push_back(one.detach().clone());
  backprop(*net);
  optimizer.step();
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(same(before[i], parameters_of_branch(*net, i)) == (mask[i] != 0));
}

TEST_CASE("clear_gradients does what zero_grad(true) does") {
  Net net;
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  const auto absent = [&] {
    for (const Tensor& one : net->parameters())
      if (one.grad().defined()) return false;
    return true;
  };
  backprop(*net);
  REQUIRE_FALSE(absent());
  dropbp::clear_gradients(*net);
  CHECK(absent());
  backprop(*net);
  dropbp::clear_gradients(optimizer);
  CHECK(absent());
  backprop(*net);
  net->zero_grad(true);
  CHECK(absent());
}

TEST_CASE("gradients of micro-steps add up, each with its own plan") {
  const auto per = GENERATE(dropbp::PlanPer::micro_step, dropbp::PlanPer::step);
  Net ours, theirs;
  dropbp::TorchModel model(*ours);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.5, .seed = 9, .plan_per = per});
  std::set<std::uint64_t> masks;
  for (std::uint64_t step = 0; step < 3; ++step) {
    dropbp::clear_gradients(*ours);
    dropbp::clear_gradients(*theirs);
    handler.begin_step(step);
    for (std::uint32_t k = 0; k < 3; ++k) {
      if (k > 0) handler.begin_micro_step(k);
      const Mask mask = mask_of(handler.plan());
      std::uint64_t bits = 0;
      for (const std::uint8_t dropped : mask) bits = 2 * bits + dropped;
      masks.insert(bits);
      theirs->detach(mask);
      CHECK(backprop(*ours, static_cast<int>(k)) == backprop(*theirs, static_cast<int>(k)));
    }
    CHECK(same(gradients_of(*ours), gradients_of(*theirs)));
    for (std::size_t i = 0; i < 4; ++i)
      CHECK(parameters_of_branch(*ours, i)[0].grad().defined() == handler.has_gradient(i));
  }
  CHECK(masks.size() > (per == dropbp::PlanPer::step ? 1u : 3u));
  const dropbp::Report report = handler.report();
  CHECK(report.consistent());
  CHECK(report.micro_steps == 9);
  for (const dropbp::BranchReport& branch : report.branches) CHECK(branch.calls.forward == 9);
}

TEST_CASE("a recomputed forward pass uses the plan of the first one") {
  Net ours, theirs;
  ours->recomputes = true;
  dropbp::TorchModel model(*ours);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.5, .seed = 4});
  for (std::uint64_t step = 0; step < 6; ++step) {
    dropbp::clear_gradients(*ours);
    dropbp::clear_gradients(*theirs);
    handler.begin_step(step);
    const Mask mask = mask_of(handler.plan());
    theirs->detach(mask);
    CHECK(backprop(*ours) == backprop(*theirs));
    CHECK(same(gradients_of(*ours), gradients_of(*theirs)));
  }
  const dropbp::Report report = handler.report();
  CHECK(report.consistent());
  CHECK(report.mean_drop_rate() > 0.2);
  for (const dropbp::BranchReport& branch : report.branches) CHECK(branch.calls.forward == 12);
}

TEST_CASE("a step without any gradient does not throw") {
  Net net;
  for (Tensor& one : net->embedding->parameters()) one.requires_grad_(false);
  for (Tensor& one : net->head->parameters()) one.requires_grad_(false);
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model, {.drop_rate = 1.0, .trainable_below = false});
  torch::optim::AdamW optimizer(net->parameters(), 0.1);
  handler.begin_step(0);
  REQUIRE(handler.all_dropped());
  CHECK_FALSE(handler.backward_needed());
  const Tensor loss = net->loss(tokens_of(0));
  CHECK_THROWS_WITH(loss.backward(), contains("does not require grad"));
  CHECK_FALSE(dropbp::backward(loss));
  const std::vector<Tensor> parameters = net->parameters();
  CHECK(torch::nn::utils::clip_grad_norm_(parameters, 1.0) == 0.0);
  std::vector<Tensor> before;
  for (const Tensor& one : parameters) before.push_back(one.detach().clone());
  optimizer.step();
  CHECK(same(before, parameters));

  handler.begin_step(dropbp::DropPlan(mask_of(0b1110), false));
  CHECK(dropbp::backward(net->loss(tokens_of(0))));
  CHECK(handler.report().consistent());
}

TEST_CASE("where all branches are dropped, the embedding and the head still train") {
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model, {.drop_rate = 1.0});
  handler.begin_step(0);
  CHECK(handler.backward_needed());
  CHECK(dropbp::backward(net->loss(tokens_of(0))));
  CHECK(net->embedding->weight.grad().defined());
  CHECK(net->head->weight.grad().defined());
  CHECK_FALSE(net->block(0).qkv->weight.grad().defined());
}

TEST_CASE("the handler finds branches at any depth and in order, and shared ones once") {
  struct Outer : torch::nn::Module {
    dropbp::TorchBranch first{*this, "first", 10.0};
    Net net;
    torch::nn::Sequential inner{Block(), Block()};
    dropbp::TorchBranch last{*this, "last", 20.0};
    Outer() {
      register_module("net", net);
      register_module("inner", inner);
      register_module("shared", net->blocks);
      register_module("late", dropbp::TorchBranch(30.0));
    }
  } outer;
  dropbp::TorchModel model(outer);
  dropbp::DropBPHandler handler(model);
  const std::vector<double> flops(handler.costs().begin(), handler.costs().end());
  CHECK(flops == std::vector<double>{10, 20, 4, 2, 4, 2, 4, 2, 4, 2, 30});

  dropbp::TorchBranch alone(5.0);
  dropbp::TorchModel model_of_one(*alone);
  CHECK(dropbp::DropBPHandler(model_of_one).size() == 1);
  torch::nn::Linear none(2, 2);
  CHECK_THROWS_WITH(
      dropbp::TorchModel(*none),
      contains(
          "must contain a registered TorchBranch, but none was found in torch::nn::LinearImpl"));
  Net changed;
  dropbp::TorchModel changing(*changed);
  dropbp::DropBPHandler stale(changing);
  changed->blocks->push_back(Block());
  CHECK_THROWS_AS(stale.begin_step(0), std::logic_error);
}

TEST_CASE("tied parameters are visited once and frozen ones not at all") {
  struct Tied : torch::nn::Module {
    dropbp::TorchBranch drop{*this, "drop"};
    Tensor weight = torch::ones({3}), frozen = torch::ones({2});
    Tied() {
      register_parameter("a", weight);
      register_parameter("b", weight);
      register_parameter("c", frozen, false);
    }
  } tied;
  dropbp::TorchModel model(tied);
  int visits = 0;
  const Tensor* seen = &tied.weight;
  const auto visit = [&](const Tensor* gradient) { ++visits, seen = gradient; };
  model.for_each_gradient(visit);
  CHECK(visits == 1);
  CHECK(seen == nullptr);
  tied.weight.sum().backward();
  model.for_each_gradient(visit);
  REQUIRE(seen != nullptr);
  CHECK(torch::equal(*seen, torch::ones({3})));
}

TEST_CASE("sensitivities equal those of N + 1 passes by hand") {
  Net ours, theirs;
  dropbp::TorchModel model(*ours);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.5, .seed = 3});
  handler.begin_step(7);
  const auto pass = [&] { dropbp::clear_gradients(*ours), backprop(*ours); };
  const std::vector<double> by_norm = handler.measure_sensitivities(pass);
  const std::vector<double> by_gradient =
      handler.measure_sensitivities(pass, dropbp::GradientSensitivity{});

  const auto gradients = [&](const Mask& mask) {
    theirs->detach(mask);
    dropbp::clear_gradients(*theirs);
    backprop(*theirs);
    return gradients_of(*theirs);
  };
  const auto or_zero = [](const Tensor& t, const Tensor& like) {
    return (t.defined() ? t : torch::zeros_like(like)).to(torch::kDouble);
  };
  const std::vector<Tensor> whole = gradients(mask_of(0));
  for (std::size_t i = 0; i < 4; ++i) {
    const std::vector<Tensor> without = gradients(mask_of(1u << i));
    double norms = 0, distances = 0;
    for (std::size_t t = 0; t < whole.size(); ++t) {
      const Tensor a = or_zero(whole[t], whole[t]), b = or_zero(without[t], whole[t]);
      norms += std::pow(a.norm().item<double>() - b.norm().item<double>(), 2);
      distances += (a - b).square().sum().item<double>();
    }
    CHECK(by_norm[i] == Approx(norms).epsilon(1e-10));
    CHECK(by_gradient[i] == Approx(distances).epsilon(1e-10));
    CHECK(by_norm[i] > 0.0);
  }
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(ours->branch(i)->dropped() == handler.plan().dropped(i));
  handler.allocate_by_sensitivity(pass);
  CHECK(handler.drop_rates()[0] != handler.drop_rates()[1]);
  CHECK(handler.learning_rate_scale(0) == 1.0 / (1.0 - handler.drop_rates()[0]));
  CHECK(handler.report().micro_steps == 1);
  CHECK(handler.report().branches[0].calls == dropbp::BranchCalls{});
  CHECK_THROWS_WITH(handler.measure_sensitivities([] {}), contains("none of its layers ran both"));
}

TEST_CASE(
    "gradient scaling multiplies a branch's gradients by 1 / (1 - p), and not the residual "
    "path's") {
  struct Chain : torch::nn::Module {
    Tensor a = register_parameter("a", torch::full({3}, 2.0)),
           b = register_parameter("b", torch::full({3}, 3.0));
    dropbp::TorchBranch drop_a{*this, "drop_a"}, drop_b{*this, "drop_b"};
  } chain;
  dropbp::TorchModel model(chain);
  dropbp::DropBPHandler handler(
      model, {.drop_rate = 0.75, .gradient_scaling = dropbp::GradientScaling::inverse_keep_rate});
  handler.begin_step(dropbp::DropPlan(mask_of(0, 2)));
  const Tensor x = torch::full({3}, 5.0).requires_grad_();
  const bool in_place = GENERATE(false, true);
  const auto residual = [&](const Tensor& in, Tensor f) { return in_place ? f.add_(in) : in + f; };
  Tensor y = residual(x, chain.drop_a([&] { return chain.a * x; }));
  const Tensor middle = y;
  y = residual(y, chain.drop_b([&, y] { return chain.b * y; }));
  CHECK(y[0].item<double>() == 60.0);
  y.sum().backward();
  // y = (1 + b) (1 + a) x; gradient scaling multiplies each Jacobian by 4.
  CHECK(torch::equal(chain.b.grad(), torch::full({3}, 4.0 * 15.0)));
  CHECK(torch::equal(chain.a.grad(), torch::full({3}, (1 + 4 * 3.0) * 4 * 5.0)));
  CHECK(torch::equal(x.grad(), torch::full({3}, (1 + 4 * 3.0) * (1 + 4 * 2.0))));
  CHECK(handler.report().consistent());

  // If a branch returns x itself, only its share of the gradient is scaled.
  const Tensor z = torch::ones({3}).requires_grad_();
  (z + chain.drop_a([&] { return z; })).sum().backward();
  CHECK(torch::equal(z.grad(), torch::full({3}, 5.0)));

  // The scale also survives an in-place addition to a view.
  z.mutable_grad().reset();
  chain.drop_a([&] { return (2 * z).view({1, 3}); }).add_(z).sum().backward();
  CHECK(torch::equal(z.grad(), torch::full({3}, 9.0)));
  CHECK(chain.drop_a->calls().backward == 3);
}

TEST_CASE("a dropped branch also detaches what was computed outside its callable") {
  dropbp::TorchBranch drop(1.0);
  drop->decide({.dropped = true});
  const Tensor x = torch::ones({3}).requires_grad_();
  const Tensor outside = 2 * x;
  (x + drop([&] { return outside; })).sum().backward();
  CHECK(torch::equal(x.grad(), torch::ones({3})));
}

TEST_CASE("evaluations run without autograd") {
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.5, .seed = 2});
  handler.begin_step(0);
  backprop(*net);
  const dropbp::BranchCalls before = net->branch(0)->calls();
  handler.begin_evaluation();
  CHECK_THROWS_AS(net->loss(tokens_of(0)), std::logic_error);
  CHECK_THROWS_WITH(net->loss(tokens_of(0)), contains("put a torch::NoGradGuard before"));
  {
    const torch::NoGradGuard no_grad;
    CHECK_FALSE(net->loss(tokens_of(0)).requires_grad());
  }
  CHECK(net->branch(0)->calls() == dropbp::BranchCalls{before.forward + 1, before.backward});
  handler.begin_step(1);
  backprop(*net);
  CHECK(handler.report().consistent());
}

TEST_CASE("a plan that changes between forward and backward is an error") {
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.0});
  handler.begin_step(0);
  const Tensor loss = net->loss(tokens_of(0));
  handler.begin_step(1);
  CHECK_THROWS_AS(loss.backward(), std::logic_error);
  const Tensor again = net->loss(tokens_of(0));
  handler.begin_micro_step(1);
  CHECK_THROWS_WITH(again.backward(), contains("the plan changed between them"));
}

TEST_CASE("an exception in a branch leaves autograd as it was") {
  dropbp::TorchBranch drop(1.0);
  drop->decide({.dropped = true});
  CHECK_THROWS_AS(drop([]() -> Tensor { throw std::runtime_error("failed"); }), std::runtime_error);
  CHECK(torch::GradMode::is_enabled());
  CHECK(drop->calls().forward == 0);
}

TEST_CASE("branches stay out of files") {
  struct Plain : torch::nn::Module {
    torch::nn::Linear linear{register_module("linear", torch::nn::Linear(3, 3))};
  };
  struct Dropping : torch::nn::Module {
    torch::nn::Linear linear{register_module("linear", torch::nn::Linear(3, 3))};
    dropbp::TorchBranch drop{*this, "drop"};
  };
  const auto plain = std::make_shared<Plain>();
  const auto dropping = std::make_shared<Dropping>();
  std::stringstream file, back;
  torch::save(plain, file);
  REQUIRE_NOTHROW([&](std::shared_ptr<Dropping> into) { torch::load(into, file); }(dropping));
  CHECK(torch::equal(plain->linear->weight, dropping->linear->weight));
  torch::save(dropping, back);
  REQUIRE_NOTHROW([&](std::shared_ptr<Plain> into) { torch::load(into, back); }(plain));
}

TEST_CASE("a clone has the plan of its original and its own counts") {
  struct Copied : torch::nn::Cloneable<Copied> {
    torch::nn::Linear linear{nullptr};
    dropbp::TorchBranch drop{nullptr};
    Copied() { reset(); }
    void reset() override {
      linear = register_module("linear", torch::nn::Linear(2, 2));
      drop = register_module("drop", dropbp::TorchBranch(6.0));
    }
  };
  const auto one = std::make_shared<Copied>();
  dropbp::TorchModel model(*one);
  dropbp::DropBPHandler handler(model, {.drop_rate = 1.0});
  handler.begin_step(0);
  const auto other = std::dynamic_pointer_cast<Copied>(one->clone());
  CHECK(other->drop->dropped());
  CHECK(other->drop->cost() == 6.0);
  other->drop([] { return torch::ones({1}); });
  CHECK(other->drop->calls().forward == 1);
  CHECK(one->drop->calls().forward == 0);
  other->drop->decide({});
  CHECK(one->drop->dropped());
}

TEST_CASE("a clone that missed a step of its original throws when it trains") {
  struct Copied : torch::nn::Cloneable<Copied> {
    torch::nn::Linear linear{nullptr};
    dropbp::TorchBranch drop{nullptr};
    Copied() { reset(); }
    void reset() override {
      linear = register_module("linear", torch::nn::Linear(2, 2));
      drop = register_module("drop", dropbp::TorchBranch(6.0));
    }
    Tensor forward() {
      return drop([&] { return linear(torch::ones({1, 2})); }).sum();
    }
  };
  const auto clone_of = [](const Copied& one) {
    return std::dynamic_pointer_cast<Copied>(one.clone());
  };
  const auto one = std::make_shared<Copied>();
  const auto before_all = clone_of(*one);
  before_all->forward().backward();  // the original has no plan yet
  dropbp::TorchModel model(*one);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.0});
  handler.begin_step(0);
  const auto clone = clone_of(*one), second = clone_of(*clone);
  clone->forward().backward();
  CHECK(clone->linear->weight.grad().defined());
  const Tensor pending = clone->forward();

  handler.begin_micro_step(1);
  for (const auto& stale : {before_all, clone, second}) {
    CHECK_THROWS_AS(stale->forward(), std::logic_error);
    CHECK_THROWS_WITH(stale->forward(), contains("a clone must be told the plan of its step") &&
                                            contains("clone after begin_step"));
    CHECK(torch::GradMode::is_enabled());
    const torch::NoGradGuard no_grad;  // evaluation only, as with a reference model
    CHECK_NOTHROW(stale->forward());
  }
  CHECK_THROWS_WITH(pending.backward(), contains("the plan changed between them"));
  CHECK_NOTHROW(one->forward().backward());
  CHECK_NOTHROW(clone_of(*one)->forward().backward());

  dropbp::TorchModel own(*clone);
  dropbp::DropBPHandler own_handler(own, {.drop_rate = 0.0});
  own_handler.begin_step(0);
  handler.begin_step(1);
  CHECK_NOTHROW(clone->forward().backward());
  CHECK_NOTHROW(clone_of(*clone)->forward().backward());
  own_handler.begin_step(1);
  CHECK_NOTHROW(one->forward().backward());
}

namespace {

// f(x) = inner(first(x)), which contains a residual branch.
struct NestingImpl : torch::nn::Module {
  torch::nn::Linear first{register_module("first", torch::nn::Linear(width, width))};
  torch::nn::Linear second{register_module("second", torch::nn::Linear(width, width))};
  dropbp::TorchBranch outer{*this, "outer", 2.0}, inner{*this, "inner", 1.0};
  const std::uint8_t* detached = nullptr;

  Tensor forward(const Tensor& x) {
    const auto inside = [&](const Tensor& y) { return torch::gelu(second(y)); };
    if (detached != nullptr) {
      const Tensor y = first(x), f = inside(y);
      const Tensor sum = y + (detached[1] != 0 ? f.detach() : f);
      return x + (detached[0] != 0 ? sum.detach() : sum);
    }
    return x + outer([&] {
             const Tensor y = first(x);
             return y + inner([&] { return inside(y); });
           });
  }
};
TORCH_MODULE(Nesting);

}  // namespace

TEST_CASE("a branch nested in a dropped branch is dropped too") {
  torch::manual_seed(1);
  torch::nn::Sequential ours{Nesting(), Nesting()};
  torch::manual_seed(1);
  torch::nn::Sequential theirs{Nesting(), Nesting()};
  dropbp::TorchModel model(*ours);
  const std::vector<std::uint32_t> parents{0, 0, 2, 2};
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.5, .seed = 5, .parents = parents});
  const auto pass = [](torch::nn::Sequential& net) {
    dropbp::clear_gradients(*net);
    dropbp::backward(net->forward(torch::ones({2, width}).requires_grad_()).square().sum());
  };
  std::size_t implied = 0;
  for (std::uint64_t step = 0; step < 30; ++step) {
    handler.begin_step(step);
    const Mask mask = mask_of(handler.plan());
    pass(ours);
    for (std::size_t k = 0; k < 2; ++k) {
      NestingImpl& block = *ours->ptr<NestingImpl>(k);
      theirs->ptr<NestingImpl>(k)->detached = &mask[2 * k];
      CHECK(block.first->weight.grad().defined() == handler.has_gradient(2 * k));
      CHECK(block.second->weight.grad().defined() == handler.has_gradient(2 * k + 1));
      implied += mask[2 * k];
      if (mask[2 * k] != 0) CHECK(mask[2 * k + 1] != 0);
    }
    pass(theirs);
    CHECK(same(gradients_of(*ours), gradients_of(*theirs)));
  }
  CHECK(implied > 10);
  const dropbp::Report report = handler.report();
  CHECK(report.consistent());

  const std::vector<double> measured = handler.measure_sensitivities([&] { pass(ours); });
  const auto norms = [&](const Mask& mask) {
    for (std::size_t k = 0; k < 2; ++k) theirs->ptr<NestingImpl>(k)->detached = &mask[2 * k];
    pass(theirs);
    std::vector<double> all;
    for (const Tensor& one : gradients_of(*theirs))
      all.push_back(std::sqrt(dropbp::squared_norm(one)));
    return all;
  };
  const std::vector<double> whole = norms(mask_of(0));
  for (unsigned i = 0; i < 4; ++i) {
    const std::vector<double> without = norms(mask_of(1u << i));
    double sum = 0;
    for (std::size_t t = 0; t < whole.size(); ++t) sum += std::pow(whole[t] - without[t], 2);
    CHECK(measured[i] == Approx(sum).epsilon(1e-10));
  }
}

TEST_CASE("a kept branch inside a dropped one throws if the handler does not know the nesting") {
  Nesting net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model);
  const Tensor x = torch::ones({2, width});
  handler.begin_step(dropbp::DropPlan(Mask{1, 0}));
  CHECK_THROWS_AS(net->forward(x), std::logic_error);
  CHECK_THROWS_WITH(net->forward(x), contains("nested in a dropped one must be dropped with it") &&
                                         contains("DropOptions::parents"));
  CHECK(torch::GradMode::is_enabled());
  {
    const torch::NoGradGuard no_grad;
    CHECK_NOTHROW(net->forward(x));
  }
  for (const Mask& mask : {Mask{0, 0}, Mask{0, 1}, Mask{1, 1}}) {
    handler.begin_step(dropbp::DropPlan(mask));
    CHECK_NOTHROW(net->forward(x));
  }
  handler.begin_evaluation();
  const torch::NoGradGuard no_grad;
  CHECK_NOTHROW(net->forward(x));
}

TEST_CASE("the graph outlives its module") {
  const Tensor x = torch::ones({3}).requires_grad_();
  Tensor y;
  {
    dropbp::TorchBranch drop(1.0);
    y = x + drop([&] { return 2 * x; });
  }
  y.sum().backward();
  CHECK(torch::equal(x.grad(), torch::full({3}, 3.0)));
}

TEST_CASE("gradients of any dtype and layout have norms in double") {
  using traits = dropbp::tensor_traits<Tensor>;
  const Tensor absent;
  CHECK(traits::squared_norm(absent) == 0.0);
  CHECK_FALSE(traits::clone(absent).defined());
  const Tensor x = torch::arange(12).to(torch::kFloat).view({3, 4});
  CHECK(traits::squared_norm(x) == 506.0);
  CHECK(traits::squared_distance(x, absent) == 506.0);
  CHECK(traits::squared_distance(absent, x) == 506.0);
  CHECK(traits::squared_distance(absent, absent) == 0.0);
  CHECK(traits::squared_distance(x, x + 2) == 48.0);
  CHECK(traits::squared_norm(x.t()) == 506.0);
  for (const auto type :
       {torch::kHalf, torch::kBFloat16, torch::kInt, torch::kLong, torch::kDouble}) {
    CHECK(traits::squared_norm(x.to(type)) == 506.0);
    CHECK(traits::squared_distance(x.to(type), x.to(type) + 1) == 12.0);
  }
  CHECK(traits::squared_norm(torch::full({4}, 1e30f)) == Approx(4e60));           // beyond float
  CHECK(traits::squared_norm(torch::full({5000}, 100).to(torch::kHalf)) == 5e7);  // beyond half
  CHECK(traits::squared_norm(torch::full({(1 << 20) + 5}, 3.0f)) == 9.0 * ((1 << 20) + 5));
  CHECK(traits::squared_distance(torch::zeros({(1 << 20) + 5}), torch::ones({(1 << 20) + 5})) ==
        (1 << 20) + 5);
  CHECK(traits::squared_norm(torch::complex(x, x)) == 1012.0);
  CHECK(traits::squared_norm(x.to_sparse()) == 506.0);
  CHECK(traits::squared_distance(x.to_sparse(), x + 1) == 12.0);
  CHECK(traits::squared_norm(torch::zeros({0})) == 0.0);
  CHECK(
      std::isnan(traits::squared_norm(torch::full({2}, std::numeric_limits<float>::quiet_NaN()))));
  CHECK(traits::squared_norm(torch::ones({4}).requires_grad_()) == 4.0);
  const Tensor copy = traits::clone(x);
  CHECK(copy.data_ptr() != x.data_ptr());
}

TEST_CASE("tensors add and scale in place") {
  using traits = dropbp::tensor_traits<Tensor>;
  Tensor y = torch::ones({2, 2}), absent;
  const void* const memory = y.data_ptr();
  dropbp::accumulate(y, torch::full({2, 2}, 2.0f));
  dropbp::scale(y, 0.5);
  dropbp::accumulate(y, absent);
  CHECK(torch::equal(y, torch::full({2, 2}, 1.5f)));
  CHECK(y.data_ptr() == memory);
  traits::accumulate(absent, y);
  CHECK(torch::equal(absent, y));
  CHECK(absent.data_ptr() != memory);
  CHECK_THROWS_AS(dropbp::accumulate(y, torch::ones({2})), std::invalid_argument);
  CHECK_THROWS_WITH(dropbp::accumulate(y, torch::ones({2})),
                    contains("one has [2, 2] and the other [2]"));
  CHECK_THROWS_AS(traits::squared_distance(y, torch::ones({4})), std::invalid_argument);
}

TEST_CASE("a DropBPLayer takes torch tensors too, for backward passes by hand") {
  struct Doubling {
    struct Saved {};
    Tensor forward(const Tensor& x, Saved*) { return 2 * x; }
    Tensor backward(const Tensor& grad_output, Saved&) { return 2 * grad_output; }
  };
  static_assert(dropbp::Tensor<Tensor> && dropbp::ScalableTensor<Tensor> &&
                dropbp::ComparableTensor<Tensor>);
  static_assert(dropbp::DroppableLayer<dropbp::TorchBranchImpl> &&
                dropbp::GradientModel<dropbp::TorchModel>);
  dropbp::DropBPLayer<Doubling> layer{Doubling{}};
  CHECK(torch::equal(layer.forward(torch::ones({2})), torch::full({2}, 3.0f)));
  CHECK(torch::equal(layer.backward(torch::ones({2})), torch::full({2}, 3.0f)));
}
