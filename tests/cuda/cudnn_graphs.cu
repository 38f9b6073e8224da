// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tests the attention graphs without cuDNN. This file defines the backend API that cudnn.cuh uses,
// and computes every graph on the host, node by node, in the memory that it is given. The result
// must be attention within the bounds of the library's own kernels, also in the parts that the free
// memory allows. What cuDNN refuses must be a fallback with a reason.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/attention_cases.hpp"
#include "dropbp/kernels/cuda/cudnn.cuh"

namespace {

using namespace dropbp::cuda;
using namespace dropbp::cuda::detail;
using dropbp::BFloat16, dropbp::Half;

/// A descriptor of the API as the caller has set it.
struct Recorded {
  cudnnBackendDescriptorType_t type;
  std::map<cudnnBackendAttributeName_t, std::vector<std::byte>> attributes;

  bool has(cudnnBackendAttributeName_t name) const { return attributes.count(name) != 0; }
  template <class V>
  std::vector<V> all(cudnnBackendAttributeName_t name) const {
    const std::vector<std::byte>& bytes = attributes.at(name);
    std::vector<V> values(bytes.size() / sizeof(V));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  template <class V>
  V one(cudnnBackendAttributeName_t name) const {
    return all<V>(name).at(0);
  }
  const Recorded& part(cudnnBackendAttributeName_t name) const {
    return *static_cast<const Recorded*>(one<cudnnBackendDescriptor_t>(name));
  }
};

struct Tensor {
  std::int64_t id;
  cudnnDataType_t type;
  std::vector<std::int64_t> sizes, strides;
  bool is_virtual;

  explicit Tensor(const Recorded& d)
      : id(d.one<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID)),
        type(d.one<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE)),
        sizes(d.all<std::int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS)),
        strides(d.all<std::int64_t>(CUDNN_ATTR_TENSOR_STRIDES)),
        is_virtual(d.one<std::byte>(CUDNN_ATTR_TENSOR_IS_VIRTUAL) != std::byte{0}) {}
};

struct Position {
  std::int64_t i[4];
  std::size_t in(const Tensor& t) const {
    std::int64_t offset = 0;
    for (std::size_t axis = 0; axis < 4; ++axis)
      offset += (t.sizes[axis] == 1 ? 0 : i[axis]) * t.strides[axis];
    return static_cast<std::size_t>(offset);
  }
};
template <class Run>
void for_each(const Tensor& t, Run run) {
  Position p{};
  for (p.i[0] = 0; p.i[0] < t.sizes[0]; ++p.i[0])
    for (p.i[1] = 0; p.i[1] < t.sizes[1]; ++p.i[1])
      for (p.i[2] = 0; p.i[2] < t.sizes[2]; ++p.i[2])
        for (p.i[3] = 0; p.i[3] < t.sizes[3]; ++p.i[3]) run(p);
}

class Host {
 public:
  explicit Host(const Recorded& pack)
      : ids_(pack.all<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)),
        pointers_(pack.all<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)) {}

  void run(const Recorded& graph) {
    for (const cudnnBackendDescriptor_t descriptor :
         graph.all<cudnnBackendDescriptor_t>(CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
      const Recorded& node = *static_cast<const Recorded*>(descriptor);
      switch (node.type) {
        case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
          product(node);
          break;
        case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
          pointwise(node);
          break;
        case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
          reduction(node);
          break;
        case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
          reshape(node);
          break;
        default:
          throw std::runtime_error("a node of an unknown kind");
      }
    }
  }

 private:
  void product(const Recorded& node) {
    const Tensor a(node.part(CUDNN_ATTR_OPERATION_MATMUL_ADESC)),
        b(node.part(CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    const Tensor c(node.part(CUDNN_ATTR_OPERATION_MATMUL_CDESC));
    for_each(c, [&](const Position& p) {
      double sum = 0.0;
      // Heads of a that share one head of b lie side by side.
      for (std::int64_t k = 0; k < a.sizes[3]; ++k)
        sum += get(a, {p.i[0], p.i[1], p.i[2], k}) *
               get(b, {p.i[0], p.i[1] / (c.sizes[1] / b.sizes[1]), k, p.i[3]});
      put(c, p, sum);
    });
  }

  void pointwise(const Recorded& node) {
    const Recorded& kind = node.part(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = kind.one<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const Tensor x(node.part(CUDNN_ATTR_OPERATION_POINTWISE_XDESC)),
        y(node.part(CUDNN_ATTR_OPERATION_POINTWISE_YDESC));
    const bool has_b = node.has(CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    const Tensor b = has_b ? Tensor(node.part(CUDNN_ATTR_OPERATION_POINTWISE_BDESC)) : x;
    for_each(y, [&](const Position& p) {
      const double u = mode == CUDNN_POINTWISE_GEN_INDEX ? 0.0 : get(x, p),
                   v = has_b ? get(b, p) : 0.0;
      switch (mode) {
        case CUDNN_POINTWISE_ADD:
          return put(y, p, u + v);
        case CUDNN_POINTWISE_SUB:
          return put(y, p, u - v);
        case CUDNN_POINTWISE_MUL:
          return put(y, p, u * v);
        case CUDNN_POINTWISE_DIV:
          return put(y, p, u / v);
        case CUDNN_POINTWISE_IDENTITY:
          return put(y, p, u);
        case CUDNN_POINTWISE_EXP:
          return put(y, p, std::exp(u));
        case CUDNN_POINTWISE_LOG:
          return put(y, p, std::log(u));
        case CUDNN_POINTWISE_CMP_GE:
          return put(y, p, u >= v ? 1.0 : 0.0);
        case CUDNN_POINTWISE_GEN_INDEX:
          return put(y, p,
                     static_cast<double>(p.i[kind.one<std::int64_t>(CUDNN_ATTR_POINTWISE_AXIS)]));
        case CUDNN_POINTWISE_BINARY_SELECT:
          return put(
              y, p, get(Tensor(node.part(CUDNN_ATTR_OPERATION_POINTWISE_TDESC)), p) != 0.0 ? u : v);
        default:
          throw std::runtime_error("an unknown function");
      }
    });
  }

  void reduction(const Recorded& node) {
    const auto what = node.part(CUDNN_ATTR_OPERATION_REDUCTION_DESC)
                          .one<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR);
    const Tensor x(node.part(CUDNN_ATTR_OPERATION_REDUCTION_XDESC)),
        y(node.part(CUDNN_ATTR_OPERATION_REDUCTION_YDESC));
    std::map<std::size_t, std::pair<Position, double>> results;
    for_each(x, [&](Position p) {
      const double value = get(x, p);
      for (std::size_t axis = 0; axis < 4; ++axis)
        p.i[axis] /= x.sizes[axis] / y.sizes[axis];  // elements that lie side by side
      const auto [found, is_first] = results.try_emplace(p.in(y), p, value);
      double& result = found->second.second;
      if (!is_first)
        result = what == CUDNN_REDUCE_TENSOR_ADD ? result + value : std::fmax(result, value);
    });
    for (const auto& [offset, result] : results) put(y, result.first, result.second);
  }

  /// The same memory with other sizes and strides.
  void reshape(const Recorded& node) {
    const Tensor x(node.part(CUDNN_ATTR_OPERATION_RESHAPE_XDESC)),
        y(node.part(CUDNN_ATTR_OPERATION_RESHAPE_YDESC));
    std::map<std::size_t, double> memory;
    for_each(x, [&](const Position& p) { memory[p.in(x)] = get(x, p); });
    for_each(y, [&](const Position& p) { put(y, p, memory.at(p.in(y))); });
  }

  void* memory(std::int64_t id) const {
    for (std::size_t i = 0; i < ids_.size(); ++i)
      if (ids_[i] == id) return pointers_.at(i);
    throw std::runtime_error("no memory was given for tensor " + std::to_string(id));
  }
  double get(const Tensor& t, const Position& p) {
    if (t.is_virtual) return between_.at({t.id, p.in(t)});
    switch (t.type) {
      case CUDNN_DATA_FLOAT:
        return static_cast<double>(static_cast<const float*>(memory(t.id))[p.in(t)]);
      case CUDNN_DATA_HALF:
        return static_cast<double>(to_float(static_cast<const Half*>(memory(t.id))[p.in(t)]));
      default:
        return static_cast<double>(to_float(static_cast<const BFloat16*>(memory(t.id))[p.in(t)]));
    }
  }
  void put(const Tensor& t, const Position& p, double value) {
    const float rounded = static_cast<float>(value);
    const Half half = from_float<Half>(rounded);
    const BFloat16 brain = from_float<BFloat16>(rounded);
    if (t.is_virtual)
      between_[{t.id, p.in(t)}] =
          static_cast<double>(t.type == CUDNN_DATA_HALF       ? to_float(half)
                              : t.type == CUDNN_DATA_BFLOAT16 ? to_float(brain)
                                                              : rounded);
    else if (t.type == CUDNN_DATA_FLOAT)
      static_cast<float*>(memory(t.id))[p.in(t)] = rounded;
    else if (t.type == CUDNN_DATA_HALF)
      static_cast<Half*>(memory(t.id))[p.in(t)] = half;
    else
      static_cast<BFloat16*>(memory(t.id))[p.in(t)] = brain;
  }

  std::vector<std::int64_t> ids_;
  std::vector<void*> pointers_;
  std::map<std::pair<std::int64_t, std::size_t>, double> between_;
};

/// What this cuDNN has and needs.
struct Engines {
  bool fixed_order = true, any_order = true;  ///< there are engines
  bool noted = false;  ///< those of the backward pass say that they are not deterministic
  std::size_t forward = 0, backward = 0;  ///< workspace bytes of each sequence's head
  std::size_t more = 0;                   ///< workspace bytes of a plan beyond those
  cudnnStatus_t execution = CUDNN_STATUS_SUCCESS;
};
Engines engines;
int executions = 0;
int searches = 0;        // for engines
bool has_memory = true;  ///< else what runs fails

/// A device that is the host. Its memory is as large as wished, because nobody writes a workspace.
struct Host_device {
  static inline std::size_t free = 0, most = 0;  ///< bytes; no request of more than `most` succeeds

  static std::size_t free_bytes() { return free; }
  static int capability(int) { return 90; }
  static void add_parts(cudnnDataType_t type, void* to, Index stride, const void* parts,
                        Index count, Index rows, Index columns) {
    const auto add = [&](auto zero) {
      using T = decltype(zero);
      for (Index i = 0; i < rows * columns; ++i) {
        float sum = 0.0f;
        for (Index part = 0; part < count; ++part)
          sum += to_float(static_cast<const T*>(parts)[part * rows * columns + i]);
        static_cast<T*>(to)[i / columns * stride + i % columns] = from_float<T>(sum);
      }
    };
    type == CUDNN_DATA_HALF ? add(Half{}) : add(BFloat16{});
  }

  class Workspace {
   public:
    explicit Workspace(std::size_t bytes) : data_(bytes <= most ? new std::byte[bytes] : nullptr) {
      if (data_ == nullptr) throw OutOfDeviceMemory("no memory");
      // NaN, where the scratch memory can be.
      const std::size_t end = std::min(bytes, std::size_t{1} << 16);
      std::memset(data_.get() + (bytes - end), 0xFF, end);
    }
    void* data() const { return data_.get(); }

   private:
    std::unique_ptr<std::byte[]> data_;
  };
};
using Attention = CudnnAttention<Host_device>;

constexpr std::size_t MiB = std::size_t{1} << 20, GiB = std::size_t{1} << 30;

/// What is wanted of a shape: the calls of each pass, and what the backward pass says of itself.
struct Wanted {
  int forward = 1, backward = 1;
  std::string how = "";  ///< part of it
  bool any_order = false;
  int shared_roundings = 1;
};

/// Checks that forward and backward pass compute attention. Plans are cached by device, so each
/// check has a `device` of its own.
template <class T>
std::string check(const test::AttentionCase& c, int device, const Wanted& wanted) {
  const AttentionShape& s = c.shape;
  std::mt19937_64 random(static_cast<std::uint64_t>(c.tokens() * 31 + s.heads));
  test::GappedRows<T> qkv(c.tokens(), c.width(), c.gap), grad_qkv(c.tokens(), c.width(), c.gap + 8);
  test::GappedRows<T> o(c.tokens(), s.q_width(), c.gap),
      grad_o(c.tokens(), s.q_width(), c.gap + 16);
  const std::vector<double> x = qkv.fill(random), g = grad_o.fill(random);
  const std::vector<float> nothing(static_cast<std::size_t>(s.statistics()),
                                   std::numeric_limits<float>::quiet_NaN());
  std::vector<float> lse = nothing, delta = nothing;
  const AttentionMemory memory{qkv.elements.data(),    o.elements.data(),        lse.data(),
                               grad_o.elements.data(), grad_qkv.elements.data(), delta.data()};
  for (const bool backward : {false, true}) {
    const AttentionKey key{device,
                           std::is_same_v<T, Half> ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16,
                           backward,
                           s,
                           qkv.rows().stride,
                           o.rows().stride,
                           grad_qkv.rows().stride,
                           grad_o.rows().stride,
                           wanted.any_order && backward};
    executions = 0;
    const dropbp::LibraryAttention library = Attention::instance().run(key, memory);
    if (!library.ran) return "it was refused: " + library.how;
    if (executions != (backward ? wanted.backward : wanted.forward))
      return "it was computed in " + std::to_string(executions) + " parts: " + library.how;
    if (backward && library.how.find(wanted.how) == std::string::npos) return library.how;
    const std::vector<double> os = o.dense(), ls(lse.begin(), lse.end());
    const auto bounds = test::attention_reference<T>(
        c, x, g, backward ? &os : nullptr, backward ? &ls : nullptr, true, wanted.shared_roundings);
    const std::string problem =
        backward ? test::problem("grad_qkv", grad_qkv.dense(), bounds.grad_qkv)
                 : test::problem("o", os, bounds.o) + test::problem("lse", ls, bounds.lse);
    if (!problem.empty()) return problem;
    if (!o.gaps_are_untouched() || !grad_qkv.gaps_are_untouched())
      return "something was written between rows";
  }
  return "";
}

/// Checks that the backward pass runs nothing, at the first and the second try, and says why.
std::string check_refused(const test::AttentionCase& c, int device, const std::string& why,
                          int most_executions = 0) {
  const AttentionShape& s = c.shape;
  const AttentionKey key{device,    CUDNN_DATA_HALF, true,      s,
                         c.width(), s.q_width(),     c.width(), s.q_width()};
  std::vector<float> delta(static_cast<std::size_t>(s.statistics()));
  for (int time = 0; time < 2; ++time) {
    executions = 0;
    const dropbp::LibraryAttention library = Attention::instance().run(key, {});
    if (library.ran) return "it was not refused";
    if (executions > (time == 0 ? most_executions : 0)) return "something ran";
    if (library.how.find(why) == std::string::npos ||
        library.how.find(" (" + cudnn_name() + ")") == std::string::npos)
      return "the reason was: " + library.how;
  }
  return "";
}

}  // namespace

// ---- the part of cuDNN's API that attention needs

namespace {

template <class Use>
void for_each_node(const Recorded& graph, Use use) {
  for (const cudnnBackendDescriptor_t node :
       graph.all<cudnnBackendDescriptor_t>(CUDNN_ATTR_OPERATIONGRAPH_OPS))
    use(*static_cast<const Recorded*>(node));
}

bool is_in_any_order(const Recorded& graph) {
  bool result = false;
  for_each_node(graph, [&](const Recorded& node) {
    if (node.has(CUDNN_ATTR_OPERATION_MATMUL_CDESC))
      result = result || Tensor(node.part(CUDNN_ATTR_OPERATION_MATMUL_CDESC)).id == grad_q_sums_id;
  });
  return result;
}

/// The forward pass has two products, the backward pass five.
bool is_backward(const Recorded& graph) {
  int products = 0;
  for_each_node(graph, [&](const Recorded& node) {
    products += node.has(CUDNN_ATTR_OPERATION_MATMUL_ADESC) ? 1 : 0;
  });
  return products == 5;
}

std::int64_t workspace_of(const Recorded& graph) {
  std::int64_t heads = 0;
  for_each_node(graph, [&](const Recorded& node) {
    if (!node.has(CUDNN_ATTR_OPERATION_MATMUL_ADESC)) return;
    const Tensor a(node.part(CUDNN_ATTR_OPERATION_MATMUL_ADESC));
    heads = a.sizes[0] * a.sizes[1];
  });
  if (is_in_any_order(graph)) return 0;  // ds is not stored
  return heads * static_cast<std::int64_t>(is_backward(graph) ? engines.backward : engines.forward);
}

}  // namespace

extern "C" {
cudnnStatus_t CUDNNWINAPI cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                                       cudnnBackendDescriptor_t* descriptor) {
  *descriptor = new Recorded{type, {}};
  return CUDNN_STATUS_SUCCESS;
}
// Other nodes and tensors may still use a descriptor, so nothing is freed.
cudnnStatus_t CUDNNWINAPI cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t) {
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnBackendFinalize(cudnnBackendDescriptor_t) {
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                                   cudnnBackendAttributeName_t name,
                                                   cudnnBackendAttributeType_t type, int64_t count,
                                                   const void* elements) {
  const bool is_wide = type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_BACKEND_DESCRIPTOR ||
                       type == CUDNN_TYPE_VOID_PTR || type == CUDNN_TYPE_HANDLE;
  const std::size_t size = is_wide ? 8 : type == CUDNN_TYPE_BOOLEAN ? sizeof(bool) : 4;
  const auto* const bytes = static_cast<const std::byte*>(elements);
  static_cast<Recorded*>(descriptor)
      ->attributes[name]
      .assign(bytes, bytes + size * static_cast<std::size_t>(count));
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                                   cudnnBackendAttributeName_t name,
                                                   cudnnBackendAttributeType_t, int64_t requested,
                                                   int64_t* count, void* elements) {
  const Recorded& asked = *static_cast<const Recorded*>(descriptor);
  *count = 1;
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {  // one engine, if any
      ++searches;
      const bool exists = is_in_any_order(asked.part(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH))
                              ? engines.any_order
                              : engines.fixed_order;
      if (!exists) *count = 0;
      if (requested > 0) {
        auto* const engine = new Recorded{CUDNN_BACKEND_ENGINE_DESCRIPTOR, {}};
        engine->attributes[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] =
            asked.attributes.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
        const cudnnBackendDescriptor_t raw = engine;
        return cudnnBackendSetAttribute(*static_cast<cudnnBackendDescriptor_t*>(elements),
                                        CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                        1, &raw);
      }
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE:
      *static_cast<Recorded*>(*static_cast<cudnnBackendDescriptor_t*>(elements)) = asked.part(name);
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
      *static_cast<std::int64_t*>(elements) = workspace_of(
          asked.part(CUDNN_ATTR_ENGINECFG_ENGINE).part(CUDNN_ATTR_ENGINE_OPERATION_GRAPH));
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
      *static_cast<std::int64_t*>(elements) =
          workspace_of(asked.part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
                           .part(CUDNN_ATTR_ENGINECFG_ENGINE)
                           .part(CUDNN_ATTR_ENGINE_OPERATION_GRAPH)) +
          static_cast<std::int64_t>(engines.more);
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
      *static_cast<std::int64_t*>(elements) = 7;
      return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
      *count = engines.noted && is_backward(asked.part(CUDNN_ATTR_ENGINE_OPERATION_GRAPH)) ? 1 : 0;
      if (*count == 1)
        *static_cast<cudnnBackendNumericalNote_t*>(elements) =
            CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
      return CUDNN_STATUS_SUCCESS;
    default:
      return CUDNN_STATUS_NOT_SUPPORTED;
  }
}
cudnnStatus_t CUDNNWINAPI cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan,
                                              cudnnBackendDescriptor_t pack) {
  ++executions;
  if (!has_memory && engines.execution == CUDNN_STATUS_SUCCESS)
    return CUDNN_STATUS_EXECUTION_FAILED;
  if (engines.execution != CUDNN_STATUS_SUCCESS) return engines.execution;
  const Recorded& engine = static_cast<const Recorded*>(plan)
                               ->part(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
                               .part(CUDNN_ATTR_ENGINECFG_ENGINE);
  Host(*static_cast<const Recorded*>(pack)).run(engine.part(CUDNN_ATTR_ENGINE_OPERATION_GRAPH));
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnCreate(cudnnHandle_t* handle) {
  static int one;
  *handle = reinterpret_cast<cudnnHandle_t>(&one);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnSetStream(cudnnHandle_t, cudaStream_t) {
  return CUDNN_STATUS_SUCCESS;
}
size_t CUDNNWINAPI cudnnGetVersion() { return CUDNN_VERSION; }
const char* CUDNNWINAPI cudnnGetErrorString(cudnnStatus_t) { return ""; }
void CUDNNWINAPI cudnnGetLastErrorString(char*, size_t) {}
}

int main() {
  int failures = 0, checks = 0, device = 0;
  const auto count = [&](const test::AttentionCase& c, const char* what, auto run) {
    std::string problem;
    try {
      problem = run();
    } catch (const std::exception& error) {
      problem = error.what();
    }
    ++checks;
    if (problem.empty()) return;
    ++failures;
    std::printf("%s, %s: %s\n", c.text().c_str(), what, problem.c_str());
  };
  const auto reset = [](Engines now, std::size_t free) {
    engines = now, Host_device::free = free, Host_device::most = SIZE_MAX;
  };
  const auto computes = [&](const test::AttentionCase& c, const char* what, const Wanted& wanted) {
    count(c, what, [&] { return check<Half>(c, device++, wanted); });
    count(c, what, [&] { return check<BFloat16>(c, device++, wanted); });
  };
  const auto refuses = [&](const test::AttentionCase& c, const char* what, const char* why,
                           int most_executions = 0) {
    has_memory = false;
    count(c, what, [&] { return check_refused(c, device++, why, most_executions); });
    has_memory = true;
  };
  const test::AttentionCase cases[] = {
      {{.batch = 2, .sequence = 12, .heads = 2, .kv_heads = 2, .head_size = 8}, 0},
      {{.batch = 2, .sequence = 16, .heads = 6, .kv_heads = 2, .head_size = 16}, 8},
      {{.batch = 3, .sequence = 7, .heads = 4, .kv_heads = 1, .head_size = 8}, 24},
  };
  for (const test::AttentionCase& c : cases) {
    const AttentionShape& s = c.shape;
    const auto all = static_cast<int>(s.batch * s.heads), batch = static_cast<int>(s.batch),
               kv_heads = static_cast<int>(s.kv_heads);
    // Half of what is free holds that many heads: all, those of a sequence, or of a kv head.
    const Engines each{.forward = MiB, .backward = MiB};
    const auto room = [](Index heads) {
      return 2 * (static_cast<std::size_t>(heads) * MiB + 4096);
    };
    reset(each, room(all));
    computes(c, "at once", {1, 1, "cuDNN 9."});
    reset(each, room(s.heads));
    computes(c, "a sequence at a time", {batch, batch, "a sequence at a time"});
    reset(each, room(s.group()));
    computes(c, "a kv head at a time", {batch * kv_heads, batch * kv_heads, "at a time"});
    // A plan that needs more than its engine said.
    reset({.forward = MiB, .backward = MiB, .more = MiB / 2}, room(all));
    refuses(c, "a plan that is too large", "cuDNN's plan needs");

    // No engine; nothing free; statuses at the start.
    reset({.fixed_order = false}, GiB);
    refuses(c, "no engine",
            "cuDNN has no engine for this shape that gives the same bits each time");
    reset({.backward = GiB}, 2 * GiB - 2);
    refuses(c, "no memory",
            " for the smallest part, but may take 1024.0 MiB of the 2.0 GiB that are free");
    reset({.execution = CUDNN_STATUS_NOT_SUPPORTED}, GiB);
    refuses(c, "a refusal at the start", "attention must start", 1);
    reset({.execution = CUDNN_STATUS_EXECUTION_FAILED}, GiB);
    count(c, "a failure", [&]() -> std::string {
      try {
        return check<Half>(c, device++, {});
      } catch (const std::runtime_error& error) {
        return dynamic_cast<const CudnnRefusal*>(&error) ? "a failure is no refusal" : "";
      }
    });

    // In any order, where asked for and where there is an engine for it.
    reset({.backward = 64 * GiB}, GiB);
    computes(c, "in any order", {1, 1, ", sums in any order", true});
    refuses(c, "in a fixed order",
            " GiB for the smallest part, but may take 512.0 MiB of the 1.0 GiB");
    reset({.noted = true}, GiB);
    computes(c, "noted engines", {1, 1, ", sums in any order", true});
    refuses(c, "noted engines", "that gives the same bits each time");
    reset({.any_order = false}, GiB);
    computes(c, "no engine in any order", {1, 1, " were free)", true});
  }

  // The parts of a shape: batch, query heads, kv heads.
  using Parts = std::vector<std::array<Index, 3>>;
  const auto divides = [&](const AttentionShape& shape, bool backward, const Parts& wanted) {
    count({shape, 0}, "parts", [&]() -> std::string {
      Parts parts;
      for (const AttentionShape& part :
           attention_parts({0, CUDNN_DATA_HALF, backward, shape, 0, 0, 0, 0}))
        parts.push_back({part.batch, part.heads, part.kv_heads});
      return parts == wanted ? "" : "other parts were expected";
    });
  };
  divides(
      {2, 4096, 64, 8, 128}, true,
      {{2, 64, 8}, {1, 64, 8}, {1, 32, 4}, {1, 16, 2}, {1, 8, 1}, {1, 4, 1}, {1, 2, 1}, {1, 1, 1}});
  divides({2, 4096, 64, 8, 128}, false,
          {{2, 64, 8}, {1, 64, 8}, {1, 32, 4}, {1, 16, 2}, {1, 8, 1}});
  divides({1, 12, 6, 6, 8}, true, {{1, 6, 6}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}});
  divides({3, 7, 4, 1, 8}, true, {{3, 4, 1}, {1, 4, 1}});  // others begin at no 16 bytes

  // Query heads of a kv head at a time.
  const test::AttentionCase& grouped = cases[1];
  reset({.backward = MiB}, 2 * (MiB + 16384));
  computes(grouped, "a query head at a time",
           {1, 12, "1 of the 3 query heads of a kv head at a time"});
  const test::AttentionCase six{
      {.batch = 1, .sequence = 8, .heads = 6, .kv_heads = 1, .head_size = 8}, 8};
  reset({.backward = MiB}, 2 * (3 * MiB + 16384));
  computes(six, "three query heads at a time",
           {1, 2, "3 of the 6 query heads of a kv head at a time", false, 2});

  // More than 1 GiB only where no part needs less; the smallest then, not the largest that fits.
  reset({.backward = 300 * MiB}, 1000 * GiB);
  computes(grouped, "a modest part",
           {1, 4, "900.0 MiB of workspace (1000.0 GiB were free), 1 of 2"});
  reset({.backward = 2 * GiB}, 1000 * GiB);
  computes(grouped, "the smallest part", {1, 12, "2.0 GiB of workspace"});

  // What is said to be free cannot be had: smaller parts, and then none.
  reset({.backward = 100 * MiB}, 2 * GiB);
  Host_device::most = 400 * MiB;
  computes(grouped, "less memory than was said", {1, 4, "300.0 MiB of workspace"});
  Host_device::most = 99 * MiB;
  refuses(grouped, "no memory at all", "cuDNN needs 100.0 MiB for the smallest part, but may take");

  // More again, where it is free: twice what could not be had, and four times after another loss.
  const auto again = [&](const char* what, std::size_t free, std::size_t most, int parts) {
    Host_device::free = free, Host_device::most = most;
    count(grouped, what, [&] { return check<Half>(grouped, device, {1, parts}); });
  };
  reset({.backward = 100 * MiB}, 0);
  again("600 MiB are lost", 2 * GiB, 400 * MiB, 4);
  again("1 GiB is not enough", GiB, SIZE_MAX, 4);
  again("2 GiB are enough", 2 * GiB, SIZE_MAX, 2);
  again("600 MiB are lost again", 2 * GiB, 400 * MiB, 4);
  again("2 GiB are not enough now", 2 * GiB, SIZE_MAX, 4);
  again("3 GiB are enough", 3 * GiB, SIZE_MAX, 2);
  const int before = searches;
  again("they stay enough", 3 * GiB, SIZE_MAX, 2);
  count(grouped, "a plan that is kept",
        [&] { return std::string(searches == before ? "" : "engines were searched again"); });
  ++device;
  reset({.backward = GiB}, 2 * GiB - 2);
  count(grouped, "a refusal for want of memory", [&]() -> std::string {
    const std::string problem = check<Half>(grouped, device, {});
    return problem.starts_with("it was refused: cuDNN needs 1.0 GiB") ? "" : "it ran: " + problem;
  });
  again("3 GiB are enough for a part", 3 * GiB, SIZE_MAX, 12);

  std::printf("%d of %d cases fail\n", failures, checks);
  return failures == 0 ? 0 : 1;
}
