// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A user-defined tensor type, gradient accumulation, and a training run that is saved and resumed.
// The resumed run must end with the same weights as the uninterrupted one; otherwise the exit code
// is 1.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>

// Each row has memory of its own. There is no data() and size(), so the nested struct tells the
// library how to add.
struct MyTensor {
  std::vector<std::vector<float>> rows = std::vector<std::vector<float>>(2, std::vector<float>(16));

  struct dropbp_tensor_traits {
    static void accumulate(MyTensor& y, const MyTensor& x) {  // y += x: enough to train
      for (std::size_t r = 0; r < y.rows.size(); ++r)
        for (std::size_t i = 0; i < y.rows[r].size(); ++i) y.rows[r][i] += x.rows[r][i];
    }
    static double squared_norm(const MyTensor& x) {  // also needed by allocate_by_sensitivity
      double sum = 0;
      for (const auto& row : x.rows)
        for (const float one : row) sum += double(one) * double(one);
      return sum;
    }
  };
  bool operator==(const MyTensor&) const = default;
};

// Calls use(a, b, ...) for each element of tensors of one shape.
void for_each_element(auto&& use, MyTensor& first, auto&... others) {
  for (std::size_t r = 0; r < first.rows.size(); ++r)
    for (std::size_t i = 0; i < first.rows[r].size(); ++i)
      use(first.rows[r][i], others.rows[r][i]...);
}

// f(x) = tanh(w * x), element by element
struct Branch {
  struct Saved {
    MyTensor x, f;
  };
  MyTensor weight, gradient;

  MyTensor forward(const MyTensor& x, Saved* saved) {
    MyTensor f;
    for_each_element([](float& y, float from, float w) { y = std::tanh(w * from); }, f, x, weight);
    if (saved != nullptr) *saved = {x, f};
    return f;
  }
  MyTensor backward(const MyTensor& grad_output, Saved& saved) {
    MyTensor sum = grad_output, grad_input;
    for_each_element([](float& g, float f) { g *= 1 - f * f; }, sum, saved.f);
    for_each_element([](float& g, float s, float x) { g += s * x; }, gradient, sum, saved.x);
    for_each_element([](float& g, float s, float w) { g = s * w; }, grad_input, sum, weight);
    return grad_input;
  }
};

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> branches;
  void for_each_layer(auto&& visit) {
    for (auto& branch : branches) visit(branch);
  }
  void for_each_gradient(auto&& visit) {
    for (auto& branch : branches) visit(branch.op().gradient);
  }

  Model() {
    const dropbp::CounterRandom random{7, dropbp::RandomStream::user, 0};
    std::uint64_t draw = 0;
    for (int i = 0; i < 6; ++i) {
      branches.emplace_back(Branch{});
      for_each_element(
          [&](float& w) { w = static_cast<float>(random(draw++) >> 40) * 0x1p-24f - 0.5f; },
          branches.back().op().weight);
    }
  }

  void clear_gradients() {
    for (auto& branch : branches) branch.op().gradient = {};
  }

  // Adds to the gradients. Returns the loss of sample k: half the squared distance to its target.
  double forward_and_backward(std::uint32_t k) {
    MyTensor y;
    float angle = static_cast<float>(k);
    for_each_element([&](float& x) { x = std::sin(angle += 1); }, y);
    for (auto& branch : branches) y = branch.forward(y);
    for_each_element([&](float& x) { x -= std::cos(angle -= 1); }, y);  // gradient of the loss
    const double loss = MyTensor::dropbp_tensor_traits::squared_norm(y) / 2;
    for (std::size_t i = branches.size(); i-- > 0;) y = branches[i].backward(std::move(y));
    return loss;
  }
};

constexpr std::uint64_t steps = 60;
constexpr std::uint32_t micro_steps = 4;

double train_step(Model& model, auto& handler, std::uint64_t step) {
  double loss = 0;
  model.clear_gradients();
  handler.begin_step(step);
  for (std::uint32_t k = 0; k < micro_steps; ++k) {
    if (k > 0) handler.begin_micro_step(k);
    loss += model.forward_and_backward(k);  // adds to the gradients
  }
  for (std::size_t i = 0; i < handler.size(); ++i) {
    if (!handler.has_gradient(i)) continue;  // dropped in every micro-step
    Branch& branch = model.branches[i].op();
    for_each_element([](float& w, float g) { w -= 0.01f * g; }, branch.weight, branch.gradient);
  }
  return loss / micro_steps;
}

int main() {
  const dropbp::DropOptions options{.drop_rate = 0.5, .seed = 42, .trainable_below = false};
  Model model, resumed_model;
  dropbp::DropBPHandler handler{model, options};
  std::string checkpoint;
  for (std::uint64_t step = 0; step < steps; ++step) {
    if (step == steps / 10)
      handler.allocate_by_sensitivity(
          [&] { model.clear_gradients(), model.forward_and_backward(0); });
    if (step == steps / 2) {  // between two steps: save state and weights
      checkpoint = to_text(handler.state());
      for (std::size_t i = 0; i < handler.size(); ++i)
        resumed_model.branches[i].op().weight = model.branches[i].op().weight;
    }
    const double loss = train_step(model, handler, step);
    if (step % 20 == 0 || step + 1 == steps) std::printf("step %2d  loss %.4f\n", int(step), loss);
  }

  dropbp::DropBPHandler resumed{resumed_model, options};
  resumed.restore(dropbp::handler_state_from_text(checkpoint));
  for (std::uint64_t step = resumed.state().next_step; step < steps; ++step)
    train_step(resumed_model, resumed, step);

  bool same = true;
  for (std::size_t i = 0; i < handler.size(); ++i)
    same = same && model.branches[i].op().weight == resumed_model.branches[i].op().weight;
  std::printf("resumed at step %d: %s weights\n", int(steps / 2), same ? "the same" : "OTHER");
  return same && to_text(resumed.state()) == to_text(handler.state()) ? 0 : 1;
}
