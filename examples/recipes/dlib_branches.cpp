// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A trainer of recursive templates: a dlib network whose residual branches are dropped. Each layer
// of a branch is wrapped in branch_, whose backward returns early and whose learning rate is 0
// while the plan drops the branch.
#include <dlib/dnn.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>

// A computational layer of dlib inside a residual branch. Its forward pass is the layer's own.
template <class Layer>
struct branch_ : Layer {
  using Layer::Layer;
  const dropbp::DropPlan* plan = nullptr;
  std::size_t number = 0;  // of the branch
  int backward_calls = 0;

  bool dropped() const { return plan != nullptr && plan->dropped(number); }

  // dlib hands out gradients of zero: what is below in the branch gets none.
  template <class Subnet>
  void backward(const dlib::tensor& gradient, Subnet& sub, dlib::tensor& params_grad) {
    if (dropped()) return;
    ++backward_calls;
    Layer::backward(gradient, sub, params_grad);
  }
  double get_learning_rate_multiplier() const {  // 0: no update, no momentum, no decay
    return dropped() ? 0.0 : Layer::get_learning_rate_multiplier();
  }
};

constexpr int width = 8;
template <class Below>
using branch_fc = dlib::add_layer<branch_<dlib::fc_<width, dlib::FC_HAS_BIAS>>, Below>;
template <class Below>  // x + fc(tanh(fc(x)))
using block = dlib::add_prev1<branch_fc<dlib::htan<branch_fc<dlib::tag1<Below>>>>>;
using Net = dlib::loss_mean_squared<
    dlib::fc<1, block<block<block<block<dlib::fc<width, dlib::input<dlib::matrix<float>>>>>>>>>;

// Calls visit(layer) for the layers of branches, from the lowest to the highest.
template <class Visit>
struct BranchLayers {
  Visit& visit;
  template <class Layer>
  void operator()(branch_<Layer>& layer) {
    visit(layer);
  }
  template <class Layer>
  void operator()(Layer&) {}
};
template <class Visit>
void for_each_branch_layer(Net& net, Visit visit) {
  dlib::visit_computational_layers(net, BranchLayers<Visit>{visit});  // from top to bottom
}

int main() {
  constexpr std::size_t branches = 4;
  Net net;
  dropbp::DropPlan plan;
  std::size_t seen = 0;
  for_each_branch_layer(net, [&](auto& layer) {
    layer.plan = &plan;
    layer.number = branches - 1 - seen++ / 2;  // two layers a branch
  });
  const dropbp::DropSchedule<> schedule(std::vector<double>(branches, 1.0), {.drop_rate = 0.5});
  std::vector<dlib::sgd> solvers(Net::num_computational_layers, dlib::sgd(0.0005f, 0.9f));

  std::vector<dlib::matrix<float>> samples;
  std::vector<float> labels;
  for (int i = 0; i < 32; ++i) {
    samples.push_back(dlib::matrix<float>(2, 1));
    samples.back() = std::sin(float(i)), std::cos(3 * float(i));
    labels.push_back(samples.back()(0) * samples.back()(1));
  }

  plan = dropbp::DropPlan::keep_all(branches);
  double first = 0, last = 0;
  std::size_t kept = 0, wrong = 0;
  for (std::uint64_t step = 0; step < 300; ++step) {
    plan = schedule.plan(step);
    kept += plan.kept_count();
    std::vector<std::vector<float>> before;
    for_each_branch_layer(net, [&](auto& layer) {
      const auto& p = layer.get_layer_params();
      before.emplace_back(p.host(), p.host() + p.size());
    });
    last = net.compute_parameter_gradients(samples.begin(), samples.end(), labels.begin());
    if (step == 0) first = last;
    net.update_parameters(dlib::make_sstack(solvers), 0.02);
    std::size_t at = 0;
    for_each_branch_layer(net, [&](auto& layer) {
      const auto& p = layer.get_layer_params();
      const bool same = std::vector<float>(p.host(), p.host() + p.size()) == before[at++];
      if (step > 0 && same != plan.dropped(layer.number)) ++wrong;
    });
  }
  std::size_t calls = 0;
  for_each_branch_layer(net, [&](auto& layer) { calls += std::size_t(layer.backward_calls); });
  std::printf("loss %.4f to %.4f, %zu backward passes of layers, %zu kept branches\n", first, last,
              calls, kept);
  if (wrong != 0) std::printf("%zu layers were wrongly updated or left alone\n", wrong);
  return wrong == 0 && calls == 2 * kept && last < first / 4 ? 0 : 1;
}
