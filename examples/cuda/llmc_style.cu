// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A trainer in the manner of llm.c, C++17: raw device pointers, one array of all parameters, a
// stream, a hand-written loop. It takes from the library what is fused or skipped where a backward
// pass is dropped (raw.hpp), and the plan from the C interface. Each layer is a residual
// branch, y = x + layer_norm(x); in yours the branch has more kernels between the norm and the sum.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <dropbp/dropbp.h>
#include <dropbp/kernels/cuda/raw.hpp>

namespace raw = dropbp::raw;

constexpr std::size_t layers = 6, rows = 24, columns = 64, elements = rows * columns;
constexpr std::size_t layer_parameters = 2 * columns;  // w, then b

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

inline float number(std::size_t i) { return std::sin(0.37f * static_cast<float>(i * i % 1009)); }

template <class T>
T* device_array(std::size_t count) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, count * sizeof(T)));
  check(cudaMemset(memory, 0, count * sizeof(T)));
  return static_cast<T*>(memory);
}
template <class T>
void to_device(T* to, const std::vector<float>& from) {
  const std::vector<T> narrow(from.begin(), from.end());
  check(cudaMemcpy(to, narrow.data(), narrow.size() * sizeof(T), cudaMemcpyHostToDevice));
}
template <class T>
std::vector<float> to_host(const T* from, std::size_t count) {
  std::vector<T> narrow(count);
  check(cudaMemcpy(narrow.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost));
  std::vector<float> result;
  for (const T& value : narrow) result.push_back(static_cast<float>(value));
  return result;
}

template <class T>
class Trainer {
 public:
  Trainer(double drop_rate, cudaStream_t stream) : stream_(stream) {
    dropbp_options options = dropbp_default_options();
    options.drop_rate = drop_rate;
    options.trainable_below = 0;
    const std::vector<double> costs(layers, 1.0);
    schedule_ = dropbp_schedule_create(layers, costs.data(), &options);
    plan_ = dropbp_plan_create();
    const std::size_t count = layers * layer_parameters;
    parameters_ = device_array<T>(count), gradients_ = device_array<T>(count);
    m_ = device_array<float>(count), v_ = device_array<float>(count);
    if (sizeof(T) == 2) master_ = device_array<float>(count);
    std::vector<float> initial(count);
    for (std::size_t i = 0; i < count; ++i)
      initial[i] = i % layer_parameters < columns ? 0.3f + 0.1f * number(i) : 0.0f;
    to_device(parameters_, initial);
    if (master_ != nullptr) to_device(master_, to_host(parameters_, count));
    updates_.assign(layers, 0);
    x_ = device_array<T>(elements), branch_ = device_array<T>(elements),
    gradient_ = device_array<T>(elements);
    // An activation has as many slots as a plan keeps layers, and one that all dropped ones share.
    slots_ = dropbp_schedule_slots(schedule_, 0);
    saved_ = device_array<T>(slots_ * elements);
    mean_ = device_array<float>(slots_ * rows), rstd_ = device_array<float>(slots_ * rows);
    for (std::size_t i = 0; i < elements; ++i) input_.push_back(number(i));
    for (std::size_t i = 0; i < elements; ++i) target_.push_back(1.5f * input_[i] + 0.2f);
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;
  ~Trainer() {
    for (void* memory : std::vector<void*>{parameters_, gradients_, m_, v_, master_, x_, branch_,
                                           gradient_, saved_, mean_, rstd_})
      check(cudaFree(memory));
    dropbp_plan_destroy(plan_);
    dropbp_schedule_destroy(schedule_);
  }

  // Returns the loss, mean((x - target)^2) / 2.
  float step(std::uint64_t number) {
    dropbp_check(dropbp_plan_draw(plan_, schedule_, number, 0));
    const float loss = forward();
    backward();
    update();
    return loss;
  }

 private:
  T* w(T* array, std::size_t layer) { return array + layer * layer_parameters; }
  bool kept(std::size_t layer) { return dropbp_plan_dropped(plan_, layer) == 0; }
  std::size_t slot(std::size_t layer) { return dropbp_plan_slot_or(plan_, layer, slots_ - 1); }

  float forward() {
    to_device(x_, input_);
    for (std::size_t l = 0; l < layers; ++l) {
      T* const parameters = w(parameters_, l);
      const std::size_t s = slot(l);
      // Adds the branch of the layer below and norms the sum, in one pass.
      raw::add_norm_forward<T>(branch_, mean_ + s * rows, rstd_ + s * rows, x_,
                               l > 0 ? branch_below_ : nullptr, parameters, parameters + columns,
                               rows, columns, 1e-5f, stream_);
      if (kept(l))  // a dropped layer saves nothing
        check(cudaMemcpyAsync(saved_ + s * elements, x_, elements * sizeof(T),
                              cudaMemcpyDeviceToDevice, stream_));
      branch_below_ = branch_;
    }
    raw::residual_join<T>(x_, branch_, elements, stream_);
    check(cudaStreamSynchronize(stream_));
    const std::vector<float> x = to_host(x_, elements);
    std::vector<float> gradient(elements);
    double loss = 0.0;
    for (std::size_t i = 0; i < elements; ++i) {
      gradient[i] = (x[i] - target_[i]) / static_cast<float>(elements);
      loss += 0.5 * static_cast<double>(gradient[i]) * static_cast<double>(x[i] - target_[i]);
    }
    to_device(gradient_, gradient);
    return static_cast<float>(loss);
  }

  void backward() {
    check(cudaMemsetAsync(gradients_, 0, layers * layer_parameters * sizeof(T), stream_));
    for (std::size_t l = layers; l-- > 0;) {
      if (!kept(l)) continue;  // the gradient passes by: nothing is launched
      T* const gradients = w(gradients_, l);
      const std::size_t s = slot(l);
      raw::norm_backward_join<T>(gradient_, gradient_, saved_ + s * elements, w(parameters_, l),
                                 mean_ + s * rows, rstd_ + s * rows, gradients, gradients + columns,
                                 rows, columns, stream_);
    }
  }

  void update() {
    // Only what has a gradient: moments, decay and step counts of dropped layers stay.
    std::vector<raw::Tensor<T>> tensors;
    std::vector<raw::Update<T>> updates;
    for (std::size_t l = 0; l < layers; ++l) {
      if (!kept(l)) continue;
      const std::size_t first = l * layer_parameters;
      tensors.push_back({gradients_ + first, layer_parameters});
      float* const master = master_ != nullptr ? master_ + first : nullptr;
      updates.push_back({parameters_ + first, gradients_ + first, master, m_ + first, v_ + first,
                         layer_parameters, ++updates_[l], false});
    }
    if (updates.empty()) return;
    std::vector<double> squared(tensors.size());
    raw::squared_norms<T>(squared.data(), tensors.data(), tensors.size(), stream_);
    double norm = 0.0;
    for (const double one : squared) norm += one;
    const double factor = 1.0 / std::fmax(1.0, std::sqrt(norm));  // clips the norm to 1
    raw::adamw<T>(updates.data(), updates.size(),
                  {1e-2f, 0.9f, 0.95f, 1e-8f, 0.0f, static_cast<float>(factor)}, stream_);
  }

  cudaStream_t stream_;
  dropbp_schedule* schedule_;
  dropbp_plan* plan_;
  std::size_t slots_;
  T *parameters_, *gradients_, *x_, *branch_, *gradient_, *saved_;
  const T* branch_below_ = nullptr;
  float *m_, *v_, *master_ = nullptr, *mean_, *rstd_;
  std::vector<std::uint64_t> updates_;
  std::vector<float> input_, target_;
};

template <class T>
bool learns(const char* type, double drop_rate) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));
  float first = 0.0f, last = 0.0f;
  {
    Trainer<T> trainer(drop_rate, stream);
    for (std::uint64_t step = 0; step < 20; ++step) {
      last = trainer.step(step);
      if (step == 0) first = last;
    }
  }
  check(cudaStreamDestroy(stream));
  std::printf("%s, drop rate %.2f: loss %.5f -> %.5f\n", type, drop_rate,
              static_cast<double>(first), static_cast<double>(last));
  return last < 0.7f * first;
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no CUDA device\n");
    return 77;
  }
  const bool all_learn = learns<float>("float", 0.0) && learns<float>("float", 0.5) &&
                         learns<__nv_bfloat16>("bfloat16", 0.5);
  return all_learn ? 0 : 1;
}
