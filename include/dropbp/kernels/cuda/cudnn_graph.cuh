// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal grouped-query attention as graphs of cuDNN's backend API. Nothing here needs a GPU:
// cudnn_plan.cuh makes plans for the device of a handle, or for a description of a device. Tests
// can thus build the graphs that run on a GPU.
#if !defined(__CUDACC__)
#error "dropbp: cudnn_graph.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <cudnn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dropbp/kernels/cuda/attention.hpp"
#include "dropbp/kernels/cuda/cudnn_descriptor.cuh"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// The device that plans are made for: the device of a handle, or a device described by a
/// CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR.
struct CudnnTarget {
  int capability;                                 ///< 10 * major + minor; 90 is Hopper
  cudnnHandle_t handle = nullptr;                 ///< null if the device is described
  cudnnBackendDescriptor_t properties = nullptr;  ///< null if there is a handle
};

/// Everything that determines a plan. Strides are elements from row to row; those of gradients are
/// 0 in the forward pass.
struct AttentionKey {
  int device;
  cudnnDataType_t type;
  bool backward;
  AttentionShape shape;
  Index qkv_stride, o_stride, grad_qkv_stride, grad_o_stride;
  bool any_order = false;  ///< grad_q is added in floats in no fixed order; else in a fixed one
  /// Of the gradients of keys and values. In the key of a part they may be apart from grad_qkv.
  Index grad_kv_stride = grad_qkv_stride;

  auto values() const {
    return std::tie(device, type, backward, shape.batch, shape.sequence, shape.heads,
                    shape.kv_heads, shape.head_size, qkv_stride, o_stride, grad_qkv_stride,
                    grad_o_stride, any_order, grad_kv_stride);
  }
  friend bool operator<(const AttentionKey& x, const AttentionKey& y) {
    return x.values() < y.values();
  }
};

/// Ids of the tensors and numbers in a graph.
enum AttentionId : std::int64_t {
  q_id = 1,
  k_id,
  v_id,
  o_id,
  lse_id,
  grad_o_id,
  grad_q_id,
  grad_k_id,
  grad_v_id,
  delta_id,
  grad_q_sums_id,
  scale_id,
  masked_id,
  one_id,
  last_id = one_id
};

/// The operation graph of one pass. In cuDNN's terms every tensor has four dimensions: sequences,
/// heads, rows and columns. The nodes form the patterns that cuDNN recognises as attention. Tensors
/// between nodes are floats, except operands of products, which have the scalar type.
class AttentionGraph {
 public:
  explicit AttentionGraph(const AttentionKey& key) : key_(key), shape_(key.shape) {
    if (key.backward)
      backward();
    else
      forward();
  }

  /// The nodes, in an order in which they can be computed.
  const std::vector<Descriptor>& nodes() const { return nodes_; }

  /// Returns the finished graph, which can be asked for engines.
  Descriptor finish(const CudnnTarget& target) const {
    Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    std::vector<cudnnBackendDescriptor_t> nodes;
    for (const Descriptor& node : nodes_) nodes.push_back(node.get());
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, nodes.data(), nodes.size());
    if (target.handle) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, target.handle);
    graph.finish("the graph of attention must be known to cuDNN");
    return graph;
  }

 private:
  using Four = std::array<std::int64_t, 4>;
  struct Tensor {
    cudnnBackendDescriptor_t descriptor;
    Four sizes, strides;
  };

  void forward() {
    const Tensor q = heads_of(q_id, key_.qkv_stride, shape_.heads),
                 k = transposed_heads_of(k_id, key_.qkv_stride);
    const Tensor v = heads_of(v_id, key_.qkv_stride, shape_.kv_heads);
    const Tensor score =
        masked(pointwise(CUDNN_POINTWISE_MUL, product(q, k, scores()), number(scale_id)));
    const Tensor largest = reduced(CUDNN_REDUCE_TENSOR_MAX, score, rows());
    const Tensor weight =
        pointwise(CUDNN_POINTWISE_EXP, pointwise(CUDNN_POINTWISE_SUB, score, largest));
    const Tensor total = reduced(CUDNN_REDUCE_TENSOR_ADD, weight, rows());
    // The natural logarithm of sum(exp(score)), as in the kernels of attention.hpp.
    pointwise_into(statistics(lse_id), CUDNN_POINTWISE_ADD, largest,
                   pointwise(CUDNN_POINTWISE_LOG, total));
    const Tensor p = pointwise_into(scores(key_.type), CUDNN_POINTWISE_DIV, weight, total);
    product(p, v, heads_of(o_id, key_.o_stride, shape_.heads));
  }

  void backward() {
    const Tensor q = heads_of(q_id, key_.qkv_stride, shape_.heads),
                 k = transposed_heads_of(k_id, key_.qkv_stride);
    const Tensor v = transposed_heads_of(v_id, key_.qkv_stride);
    const Tensor o = heads_of(o_id, key_.o_stride, shape_.heads),
                 grad_o = heads_of(grad_o_id, key_.grad_o_stride, shape_.heads);
    const Tensor scale = number(scale_id);
    // The factor 1 is in the place of a dropout's factor.
    const Tensor sums =
        reduced(CUDNN_REDUCE_TENSOR_ADD, pointwise(CUDNN_POINTWISE_MUL, grad_o, o), rows());
    const Tensor delta =
        pointwise_into(statistics(delta_id), CUDNN_POINTWISE_MUL, sums, number(one_id));

    const Tensor score = pointwise(CUDNN_POINTWISE_MUL, product(q, k, scores()), scale);
    const Tensor p = pointwise(CUDNN_POINTWISE_EXP,
                               masked(pointwise(CUDNN_POINTWISE_SUB, score, statistics(lse_id))));
    gradient_of(grad_v_id, transposed(p), grad_o);

    const Tensor dp = pointwise(CUDNN_POINTWISE_SUB, product(grad_o, v, scores()), delta);
    const Tensor ds = pointwise(CUDNN_POINTWISE_MUL, pointwise(CUDNN_POINTWISE_MUL, dp, p), scale);
    gradient_of(grad_k_id, transposed(ds), q);
    const Tensor keys = reshaped(k, heads_between(k));
    const Tensor grad_q = heads_of(grad_q_id, key_.grad_qkv_stride, shape_.heads);
    if (!key_.any_order) {
      product(ds, keys, grad_q);
      return;
    }
    // The engines add to a buffer of floats in no fixed order.
    const Four sizes = {shape_.batch, shape_.heads, shape_.sequence, shape_.head_size};
    const Tensor grad_q_sums = in_memory(grad_q_sums_id, CUDNN_DATA_FLOAT, sizes, packed(sizes));
    pointwise_node(grad_q, CUDNN_POINTWISE_IDENTITY, product(ds, keys, grad_q_sums), nullptr,
                   nullptr);
  }

  /// Computes the gradient of the keys or values. Gradients of query heads with the same kv head
  /// are added.
  void gradient_of(AttentionId id, const Tensor& a, const Tensor& b) {
    const Tensor result = heads_of(id, key_.grad_kv_stride, shape_.kv_heads);
    if (shape_.heads == shape_.kv_heads) {
      product(a, b, result);
      return;
    }
    const Four sizes = {shape_.batch, shape_.heads, shape_.sequence, shape_.head_size};
    reduced(CUDNN_REDUCE_TENSOR_ADD, product(a, b, between(key_.type, sizes, packed(sizes))),
            result);
  }

  /// Replaces scores by minus infinity where the key comes after the query.
  Tensor masked(const Tensor& score) {
    const Tensor row = index(score, 2), column = index(score, 3);
    const Tensor seen =
        pointwise_into(scores(CUDNN_DATA_BOOLEAN), CUDNN_POINTWISE_CMP_GE, row, column);
    return pointwise_into(scores(), CUDNN_POINTWISE_BINARY_SELECT, score, number(masked_id), &seen);
  }

  // ---- tensors

  static Four packed(const Four& sizes) {
    return {sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1};
  }
  static Four swapped(Four x) {
    std::swap(x[2], x[3]);
    return x;
  }

  Tensor heads_of(AttentionId id, Index stride, Index heads) {
    return in_memory(id, key_.type, {shape_.batch, heads, shape_.sequence, shape_.head_size},
                     {shape_.sequence * stride, shape_.head_size, stride, 1});
  }
  Tensor transposed_heads_of(AttentionId id, Index stride) {
    return in_memory(id, key_.type,
                     {shape_.batch, shape_.kv_heads, shape_.head_size, shape_.sequence},
                     {shape_.sequence * stride, shape_.head_size, 1, stride});
  }
  Tensor statistics(AttentionId id) {
    const Four sizes = {shape_.batch, shape_.heads, shape_.sequence, 1};
    return in_memory(id, CUDNN_DATA_FLOAT, sizes, packed(sizes));
  }
  Tensor number(AttentionId id) {
    return tensor(CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, id, false, true);
  }
  Tensor in_memory(AttentionId id, cudnnDataType_t type, const Four& sizes, const Four& strides) {
    return tensor(type, sizes, strides, id, false, false);
  }

  /// A virtual tensor, which only the next nodes read.
  Tensor between(cudnnDataType_t type, const Four& sizes, const Four& strides) {
    return tensor(type, sizes, strides, next_id_++, true, false);
  }
  Tensor scores(cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    const Four sizes = {shape_.batch, shape_.heads, shape_.sequence, shape_.sequence};
    return between(type, sizes, packed(sizes));
  }
  Tensor rows() {
    const Four sizes = {shape_.batch, shape_.heads, shape_.sequence, 1};
    return between(CUDNN_DATA_FLOAT, sizes, packed(sizes));
  }
  Tensor heads_between(const Tensor& transposed) {
    return between(key_.type, swapped(transposed.sizes), swapped(transposed.strides));
  }

  Tensor tensor(cudnnDataType_t type, const Four& sizes, const Four& strides, std::int64_t id,
                bool is_virtual, bool is_number) {
    Descriptor& made = tensors_.emplace_back(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    made.set(CUDNN_ATTR_TENSOR_DIMENSIONS, sizes.data(), sizes.size());
    made.set(CUDNN_ATTR_TENSOR_STRIDES, strides.data(), strides.size());
    made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16});
    made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual);
    made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, is_number);
    made.finish("a tensor of attention must be possible");
    return {made.get(), sizes, strides};
  }

  // ---- nodes

  Tensor product(const Tensor& a, const Tensor& b, const Tensor& c) {
    Descriptor kind(CUDNN_BACKEND_MATMUL_DESCRIPTOR),
        node(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    kind.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    kind.finish("products of floats must be possible");
    node.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, kind.get());
    node.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.descriptor);
    node.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.descriptor);
    node.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c.descriptor);
    return finished(std::move(node), c);
  }

  Tensor reduced(cudnnReduceTensorOp_t what, const Tensor& x, const Tensor& y) {
    Descriptor kind(CUDNN_BACKEND_REDUCTION_DESCRIPTOR),
        node(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    kind.set(CUDNN_ATTR_REDUCTION_OPERATOR, what);
    kind.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    kind.finish("sums of floats must be possible");
    node.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind.get());
    node.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.descriptor);
    node.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y.descriptor);
    return finished(std::move(node), y);
  }

  Tensor pointwise(cudnnPointwiseMode_t mode, const Tensor& x) {
    return pointwise_node(between(CUDNN_DATA_FLOAT, x.sizes, packed(x.sizes)), mode, x, nullptr,
                          nullptr);
  }
  Tensor pointwise(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b) {
    return pointwise_into(between(CUDNN_DATA_FLOAT, x.sizes, packed(x.sizes)), mode, x, b);
  }
  Tensor pointwise_into(const Tensor& y, cudnnPointwiseMode_t mode, const Tensor& x,
                        const Tensor& b, const Tensor* choice = nullptr) {
    return pointwise_node(y, mode, x, &b, choice);
  }
  /// For each element, the index of its row (axis 2) or column (axis 3).
  Tensor index(const Tensor& x, std::int64_t axis) {
    return pointwise_node(scores(CUDNN_DATA_INT32), CUDNN_POINTWISE_GEN_INDEX, x, nullptr, nullptr,
                          axis);
  }

  Tensor pointwise_node(const Tensor& y, cudnnPointwiseMode_t mode, const Tensor& x,
                        const Tensor* b, const Tensor* choice, std::int64_t axis = -1) {
    Descriptor kind(CUDNN_BACKEND_POINTWISE_DESCRIPTOR),
        node(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    kind.set(CUDNN_ATTR_POINTWISE_MODE, mode);
    kind.set(CUDNN_ATTR_POINTWISE_MATH_PREC,
             mode == CUDNN_POINTWISE_CMP_GE ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT);
    if (axis >= 0) kind.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
    kind.finish("a function of each element must be possible");
    node.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind.get());
    node.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x.descriptor);
    if (b) node.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->descriptor);
    if (choice) node.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, choice->descriptor);
    node.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y.descriptor);
    return finished(std::move(node), y);
  }

  /// Transposes scores. The result is an operand of a product.
  Tensor transposed(const Tensor& x) {
    return reshaped(x, between(key_.type, swapped(x.sizes), swapped(x.strides)));
  }
  Tensor reshaped(const Tensor& x, const Tensor& y) {
    Descriptor node(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    node.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.descriptor);
    node.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.descriptor);
    return finished(std::move(node), y);
  }

  Tensor finished(Descriptor node, const Tensor& result) {
    node.finish("a node of attention must be possible");
    nodes_.push_back(std::move(node));
    return result;
  }

  const AttentionKey& key_;
  const AttentionShape& shape_;
  std::vector<Descriptor> tensors_, nodes_;
  std::int64_t next_id_ = 100;
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
