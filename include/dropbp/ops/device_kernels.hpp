// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The definitions of device_ops: from views to launches. Included where a backend's kernels are
// compiled.
#pragma once

#include <algorithm>
#include <cstring>

#include "dropbp/backend/cuda/attention.hpp"
#include "dropbp/backend/cuda/cross_entropy.hpp"
#include "dropbp/backend/cuda/elementwise.hpp"
#include "dropbp/backend/cuda/embedding.hpp"
#include "dropbp/backend/cuda/gates.hpp"
#include "dropbp/backend/cuda/nf4.hpp"
#include "dropbp/backend/cuda/rms_norm.hpp"
#include "dropbp/backend/cuda/rope.hpp"
#include "dropbp/backend/cuda/segments.hpp"
#include "dropbp/ops/device.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

template <class T, class Backend>
cuda::Rows<T> rows_of(MatrixView<T, Backend> x) {
  return {x.data, x.stride};
}

inline cuda::AttentionShape attention_shape(const HeadLayout& layout, const SequenceShape& shape) {
  return {.batch = shape.batch,
          .sequence = shape.sequence,
          .heads = layout.heads,
          .kv_heads = layout.kv_heads,
          .head_size = layout.head_size};
}

// A host array on the device for the length of a call; its memory is released in the order of the
// stream.
template <class E, class Backend>
class DeviceBuffer {
 public:
  DeviceBuffer(const E* host, std::size_t count)
      : bytes_(count * sizeof(E)), data_(device_runtime<Backend>::allocate(bytes_)) {
    try {
      if (bytes_ > 0) device_runtime<Backend>::copy_to_device(data_, host, bytes_);
    } catch (...) {
      device_runtime<Backend>::release(data_, bytes_);
      throw;
    }
  }
  explicit DeviceBuffer(const std::vector<E>& host) : DeviceBuffer(host.data(), host.size()) {}
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { device_runtime<Backend>::release(data_, bytes_); }

  const E* data() const noexcept { return static_cast<const E*>(data_); }

 private:
  std::size_t bytes_;
  void* data_;
};

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::copy(View to, ConstView from) {
  auto launch = device_launcher<Backend>::current();
  cuda::copy(launch, rows_of(to), rows_of(from), to.rows, to.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::set_zero(View y) {
  auto launch = device_launcher<Backend>::current();
  cuda::set_zero(launch, rows_of(y), y.rows, y.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::add(View y, ConstView x) {
  auto launch = device_launcher<Backend>::current();
  cuda::add(launch, rows_of(y), rows_of(x), y.rows, y.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::multiply(View y, float factor) {
  auto launch = device_launcher<Backend>::current();
  cuda::scale(launch, rows_of(y), factor, y.rows, y.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::convert_from(View to, MatrixView<const float, Backend> from) {
  auto launch = device_launcher<Backend>::current();
  cuda::convert(launch, rows_of(to), rows_of(from), to.rows, to.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::convert_to(MatrixView<float, Backend> to, ConstView from) {
  auto launch = device_launcher<Backend>::current();
  cuda::convert(launch, rows_of(to), rows_of(from), to.rows, to.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::dropout(View y, ConstView x, double rate, const TrainingMoment& moment,
                                     std::uint64_t stream) {
  auto launch = device_launcher<Backend>::current();
  cuda::dropout(launch, rows_of(y), rows_of(x), y.rows, y.columns, rate, moment.seed ^ stream,
                moment.step, moment.micro_step);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::product(GemmLayout layout, View c, ConstView a, ConstView b,
                                     Accumulate mode) {
  const Index depth = layout == GemmLayout::tn ? a.rows : a.columns;
  device_products<Backend, T>::product(layout, c.rows, c.columns, depth, c.data, c.stride, a.data,
                                       a.stride, b.data, b.stride, mode == Accumulate::add);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::rms_norm_forward(View y, float* rstd, ConstView x, const T* w,
                                              double eps) {
  auto launch = device_launcher<Backend>::current();
  cuda::rms_norm_forward(launch, rows_of(y), rstd, rows_of(x), w, x.rows, x.columns, eps);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::rms_norm_recompute(View y, ConstView x, const T* w,
                                                const float* rstd) {
  auto launch = device_launcher<Backend>::current();
  cuda::rms_norm_recompute(launch, rows_of(y), rows_of(x), w, rstd, x.rows, x.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::rms_norm_backward(View grad_input, Accumulate mode,
                                               ConstView grad_output, ConstView x, const T* w,
                                               const float* rstd, T* grad_weight,
                                               Accumulate weight_mode,
                                               BasicMemoryPool<Backend>& workspace) {
  auto launch = device_launcher<Backend>::current();
  Matrix<float, Backend> shares;
  if (grad_weight != nullptr)
    shares =
        Matrix<float, Backend>(1, cuda::rms_norm_backward_workspace(x.rows, x.columns), workspace);
  cuda::rms_norm_backward(launch, rows_of(grad_input), mode == Accumulate::add,
                          rows_of(grad_output), rows_of(x), w, rstd, grad_weight,
                          weight_mode == Accumulate::add, shares.data(), x.rows, x.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::rope(View x, const float* cosine, const float* sine, Index heads,
                                  Index half, Index sequence, bool inverse) {
  auto launch = device_launcher<Backend>::current();
  cuda::rope(launch, rows_of(x), cosine, sine, heads, half, sequence, inverse, x.rows);
}

template <class T, DeviceBackend Backend>
AttentionCode device_ops<T, Backend>::attention_forward(View o, float* lse, ConstView qkv,
                                                        const HeadLayout& layout,
                                                        const SequenceShape& shape,
                                                        AttentionCode wanted) {
  const cuda::AttentionShape sizes = attention_shape(layout, shape);
  if (wanted == AttentionCode::library &&
      device_attention<Backend, T>::forward(rows_of(o), lse, rows_of(qkv), sizes))
    return AttentionCode::library;
  auto launch = device_launcher<Backend>::current();
  cuda::attention_forward<decltype(launch), T>(launch, rows_of(o), lse, rows_of(qkv), sizes);
  return AttentionCode::own;
}

template <class T, DeviceBackend Backend>
AttentionCode device_ops<T, Backend>::attention_backward(View grad_qkv, ConstView grad_o,
                                                         ConstView qkv, ConstView o,
                                                         const float* lse, const HeadLayout& layout,
                                                         const SequenceShape& shape,
                                                         AttentionCode wanted) {
  const cuda::AttentionShape sizes = attention_shape(layout, shape);
  Matrix<float, Backend> delta(shape.batch * layout.heads, shape.sequence);
  if (wanted == AttentionCode::library &&
      device_attention<Backend, T>::backward(rows_of(grad_qkv), rows_of(grad_o), rows_of(qkv),
                                             rows_of(o), lse, delta.data(), sizes))
    return AttentionCode::library;
  auto launch = device_launcher<Backend>::current();
  cuda::attention_backward<decltype(launch), T>(launch, rows_of(grad_qkv), rows_of(grad_o),
                                                rows_of(qkv), rows_of(o), lse, delta.data(), sizes);
  return AttentionCode::own;
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::swiglu_forward(View out, ConstView gate_up) {
  auto launch = device_launcher<Backend>::current();
  cuda::swiglu_forward(launch, rows_of(out), rows_of(gate_up), out.rows, out.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::swiglu_backward(View grad_gate_up, View out_gradient,
                                             ConstView gate_up) {
  auto launch = device_launcher<Backend>::current();
  cuda::swiglu_backward(launch, rows_of(grad_gate_up), rows_of(out_gradient), rows_of(gate_up),
                        out_gradient.rows, out_gradient.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::embedding_forward(View out, std::span<const std::int32_t> tokens,
                                               ConstView weight) {
  auto launch = device_launcher<Backend>::current();
  const DeviceBuffer<std::int32_t, Backend> ids(tokens.data(), tokens.size());
  cuda::embedding_forward(launch, rows_of(out), ids.data(), rows_of(weight), out.rows, out.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::embedding_backward(View gradient, Accumulate mode,
                                                ConstView grad_output,
                                                std::span<const std::int32_t> tokens) {
  auto launch = device_launcher<Backend>::current();
  const cuda::TokenOrder order(tokens.data(), tokens.size());
  const DeviceBuffer<std::int32_t, Backend> ids(order.ids), starts(order.starts),
      positions(order.positions);
  cuda::embedding_backward(launch, rows_of(gradient), mode == Accumulate::add, rows_of(grad_output),
                           ids.data(), starts.data(), positions.data(),
                           static_cast<Index>(order.ids.size()), gradient.rows, gradient.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::cross_entropy_rows(View logits, float* losses,
                                                const std::int32_t* targets, std::int32_t ignored,
                                                double divisor, bool keep) {
  auto launch = device_launcher<Backend>::current();
  cuda::cross_entropy_rows(launch, rows_of(logits), losses, targets, ignored, divisor, keep,
                           logits.rows, logits.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::nf4_expand(View to, Index first, const std::uint8_t* codes,
                                        const std::uint8_t* scales, const float* group_scales,
                                        float offset) {
  static const cuda::Nf4Tables tables = [] {
    cuda::Nf4Tables result;
    std::copy(nf4_values.begin(), nf4_values.end(), result.values);
    std::copy(dynamic_values.begin(), dynamic_values.end(), result.dynamic);
    return result;
  }();
  auto launch = device_launcher<Backend>::current();
  cuda::nf4_expand(launch, rows_of(to), codes, scales, group_scales, offset, tables, first, to.rows,
                   to.columns);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::adamw(std::span<cuda::UpdateSegment<T>> segments,
                                   const AdamWOptions& options, double gradient_factor) {
  auto launch = device_launcher<Backend>::current();
  std::int64_t chunks = 0;
  for (cuda::UpdateSegment<T>& segment : segments) {
    segment.first_chunk = chunks;
    chunks += cuda::update_chunks(static_cast<Index>(segment.size));
  }
  const DeviceBuffer<cuda::UpdateSegment<T>, Backend> table(segments.data(), segments.size());
  cuda::adamw(launch, table.data(), static_cast<Index>(segments.size()), static_cast<Index>(chunks),
              {.beta1 = static_cast<float>(options.beta1),
               .rest1 = static_cast<float>(1.0 - options.beta1),
               .beta2 = static_cast<float>(options.beta2),
               .rest2 = static_cast<float>(1.0 - options.beta2),
               .eps = static_cast<float>(options.eps),
               .factor = static_cast<float>(gradient_factor)});
}

template <class T, DeviceBackend Backend>
std::vector<double> device_ops<T, Backend>::squared_norms(
    std::span<const DeviceSpan<const T, Backend>> tensors) {
  std::vector<double> sums(tensors.size());
  if (tensors.empty()) return sums;
  std::vector<cuda::NormSegment<T>> segments;
  std::vector<std::int64_t> starts;
  std::int64_t chunks = 0;
  for (const DeviceSpan<const T, Backend>& tensor : tensors) {
    segments.push_back({tensor.data(), static_cast<std::int64_t>(tensor.size()), chunks});
    starts.push_back(chunks);
    chunks += cuda::norm_chunks(static_cast<Index>(tensor.size()));
  }
  starts.push_back(chunks);
  auto launch = device_launcher<Backend>::current();
  const DeviceBuffer<cuda::NormSegment<T>, Backend> table(segments);
  const DeviceBuffer<std::int64_t, Backend> bounds(starts);
  Matrix<float, Backend> partial(1, static_cast<Index>(chunks));
  Matrix<cuda::ExactSum, Backend> result(1, static_cast<Index>(sums.size()));
  cuda::squared_norms(launch, result.data(), table.data(), bounds.data(),
                      static_cast<Index>(sums.size()), static_cast<Index>(chunks), partial.data());
  std::vector<cuda::ExactSum> exact(sums.size());
  device_runtime<Backend>::copy_to_host(exact.data(), result.data(),
                                        exact.size() * sizeof(cuda::ExactSum));
  std::transform(exact.begin(), exact.end(), sums.begin(),
                 [](const cuda::ExactSum& sum) { return sum.value(); });
  return sums;
}

template <class T, DeviceBackend Backend>
double device_ops<T, Backend>::squared_distance(const T* x, const T* y, std::size_t n) {
  auto launch = device_launcher<Backend>::current();
  const Index chunks = cuda::norm_chunks(static_cast<Index>(n));
  const std::vector<std::int64_t> starts = {0, chunks};
  const DeviceBuffer<std::int64_t, Backend> bounds(starts);
  Matrix<float, Backend> partial(1, chunks);
  Matrix<cuda::ExactSum, Backend> result(1, 1);
  cuda::squared_distance(launch, result.data(), x, y, static_cast<Index>(n), bounds.data(),
                         partial.data());
  cuda::ExactSum sum{};
  device_runtime<Backend>::copy_to_host(&sum, result.data(), sizeof sum);
  return sum.value();
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::accumulate(T* y, const T* x, std::size_t n) {
  auto launch = device_launcher<Backend>::current();
  cuda::accumulate(launch, y, x, n);
}

template <class T, DeviceBackend Backend>
void device_ops<T, Backend>::scale(T* y, double factor, std::size_t n) {
  auto launch = device_launcher<Backend>::current();
  cuda::scale(launch, y, static_cast<float>(factor), n);
}

}  // namespace detail
}  // namespace ops
DROPBP_NAMESPACE_END
