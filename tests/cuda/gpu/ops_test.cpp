// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compares every op of the CUDA backend with the CPU's op in double, on fresh random inputs. Runs
// on a GPU and on the emulator (backend.hpp).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/attention_cases.hpp"
#include "cuda/gpu/device_buffers.hpp"
#include "cuda/gpu/more_ops.hpp"
#include "dropbp/kernels/cuda.hpp"
#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/attention.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/dropout.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/fp8.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/rope.hpp"
#include "dropbp/ops/swiglu.hpp"
#include "support/throws.hpp"
#include "support/values.hpp"

namespace {

using namespace dropbp;
using ops::Accumulate;
using ops::Index;
using ops::Matrix;
using ops::MatrixView;
using test::Buffer;
using test::Capture;
using test::error_of;
using test::run_everywhere;
using test::tolerance;

namespace op = ops::op;
template <class Op, class T>
using Kernels = ops::kernels<Op, T, test::Backend>;
template <class T>
using MoreOps = test::more_ops<T, test::Backend>;

/// Shapes with and without rows of whole 16-byte packs.
struct Shape {
  Index rows, columns;
};
constexpr Shape shapes[] = {{130, 256}, {7, 33}, {1, 1}, {3, 4096}};

MatrixView<double> rows_of(std::vector<double>& x, Index rows) {
  return {x.data(), rows, static_cast<Index>(x.size()) / rows};
}
MatrixView<const double> rows_of(const std::vector<double>& x, Index rows) {
  return {x.data(), rows, static_cast<Index>(x.size()) / rows};
}

std::mt19937_64 generator(Shape shape) {
  return std::mt19937_64(test::fresh_seed() +
                         static_cast<std::uint64_t>(shape.rows * 10007 + shape.columns));
}

}  // namespace

#define DROPBP_SCALARS float, dropbp::Half, dropbp::BFloat16

TEMPLATE_TEST_CASE("device: rows are copied, zeroed, added, scaled and converted", "",
                   DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> x(shape.rows, shape.columns), y(shape.rows, shape.columns),
        z(shape.rows, shape.columns + 8);
    Buffer<float> wide(shape.rows, shape.columns);
    const std::vector<double> xs = x.fill(random);
    run_everywhere({&y}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::copy(y.view(), x.constant()); });
    CHECK(y.values() == xs);
    run_everywhere({&y}, Capture::yes, [&] { Kernels<op::elementwise, T>::set_zero(y.view()); });
    CHECK(y.values() == std::vector<double>(xs.size()));
    // Writes to columns of a wider matrix: the other columns stay NaN.
    run_everywhere({&z}, Capture::yes, [&] {
      Kernels<op::elementwise, T>::copy(z.columns(8, shape.columns), x.constant());
    });
    const std::vector<double> inside = z.values();
    for (Index i = 0; i < shape.rows; ++i)
      for (Index j = 0; j < shape.columns + 8; ++j) {
        const double value = inside[static_cast<std::size_t>(i * (shape.columns + 8) + j)];
        if (!(j < 8 ? std::isnan(value)
                    : value == xs[static_cast<std::size_t>(i * shape.columns + j - 8)]))
          FAIL("a wrong column " << j);
      }
    const std::vector<double> ys = y.fill(random);
    std::vector<double> sum(xs.size()), scaled(xs.size());
    for (std::size_t i = 0; i < xs.size(); ++i) sum[i] = xs[i] + ys[i], scaled[i] = 0.75 * ys[i];
    run_everywhere({&y}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::accumulate(y.view(), x.constant()); });
    CHECK(error_of(y.values(), sum) <= tolerance<T>);
    run_everywhere({&y}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::accumulate(y.data(), x.data(), xs.size()); });
    CHECK(error_of(y.values(), sum) <= tolerance<T>);
    run_everywhere({&y}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::scale(y.view(), 0.75f); });
    CHECK(error_of(y.values(), scaled) <= tolerance<T>);
    run_everywhere({&y}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::scale(y.data(), 0.75, ys.size()); });
    CHECK(error_of(y.values(), scaled) <= tolerance<T>);
    run_everywhere({&wide}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::convert_to(wide.view(), x.constant()); });
    CHECK(wide.values() == xs);
    run_everywhere({&y}, Capture::yes,
                   [&] { Kernels<op::elementwise, T>::convert_from(y.view(), wide.constant()); });
    CHECK(y.values() == xs);
  }
}

TEMPLATE_TEST_CASE("device: dropout has the CPU's masks", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> x(shape.rows, shape.columns), y(shape.rows, shape.columns);
    const std::vector<double> xs = x.fill(random);
    std::vector<double> wanted(xs.size());
    const ops::MicroStepId id{.seed = random(), .step = 7, .micro_step = 2};
    ops::dropout<double>(rows_of(wanted, shape.rows), rows_of(xs, shape.rows), 0.3, id, 5);
    run_everywhere({&y}, Capture::yes, [&] { ops::dropout(y.view(), x.constant(), 0.3, id, 5); });
    const std::vector<double> got = y.values();
    CHECK(error_of(got, wanted) <= tolerance<T>);
    for (std::size_t i = 0; i < got.size(); ++i)
      if ((got[i] == 0.0) != (wanted[i] == 0.0)) FAIL("another mask at " << i);
  }
}

TEMPLATE_TEST_CASE(
    "device: products of each layout, overwritten and accumulated, dense and in columns of wider "
    "matrices",
    "", DROPBP_SCALARS) {
  using T = TestType;
  struct Size {
    Index m, n, k, gap;
  };
  for (const Size s : {Size{64, 128, 256, 0}, Size{33, 17, 65, 0}, Size{128, 64, 96, 8},
                       Size{5, 7, 3, 1}, Size{1, 128, 64, 0}, Size{16, 16, 0, 0}})
    for (const ops::GemmLayout layout :
         {ops::GemmLayout::nt, ops::GemmLayout::nn, ops::GemmLayout::tn})
      for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
        INFO(s.m << " x " << s.n << " x " << s.k << ", gap " << s.gap << ", layout "
                 << static_cast<int>(layout) << ", DROPBP_TEST_SEED=" << test::fresh_seed());
        auto random = generator({s.m, s.n});
        const bool at = layout == ops::GemmLayout::tn, bt = layout == ops::GemmLayout::nt;
        const Index a_rows = at ? s.k : s.m, a_columns = at ? s.m : s.k, b_rows = bt ? s.n : s.k,
                    b_columns = bt ? s.k : s.n;
        Buffer<T> a(a_rows, a_columns + s.gap), b(b_rows, b_columns + s.gap), c(s.m, s.n + s.gap);
        const std::vector<double> as = a.fill(random), bs = b.fill(random), cs = c.fill(random);
        std::vector<double> wanted = cs;
        if (mode == Accumulate::overwrite) {  // the output starts as NaN, which 0 * NaN keeps
          std::vector<double> before = cs;
          for (std::size_t i = 0; i < before.size(); ++i)
            if (static_cast<Index>(i) % (s.n + s.gap) < s.n)
              before[i] = std::numeric_limits<double>::quiet_NaN();
          c = Buffer<T>(s.m, s.n + s.gap, before);
        }
        const auto strided = [](auto& x, Index rows, Index columns, Index gap) {
          return MatrixView(x.data(), rows, columns, columns + gap);
        };
        const MatrixView<const double> av = strided(as, a_rows, a_columns, s.gap),
                                       bv = strided(bs, b_rows, b_columns, s.gap);
        const MatrixView<double> cv = strided(wanted, s.m, s.n, s.gap);
        if (layout == ops::GemmLayout::nt) ops::gemm_nt(cv, av, bv, mode);
        if (layout == ops::GemmLayout::nn) ops::gemm_nn(cv, av, bv, mode);
        if (layout == ops::GemmLayout::tn) ops::gemm_tn(cv, av, bv, mode);
        run_everywhere({&c}, Capture::yes, [&] {
          Kernels<op::gemm, T>::run(layout, c.columns(0, s.n), a.columns(0, a_columns),
                                    b.columns(0, b_columns), mode);
        });
        CHECK(error_of(c.values(), wanted) <= tolerance<T>);
      }
}

TEMPLATE_TEST_CASE("device: RMSNorm forward, recomputed and backward", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> x(shape.rows, shape.columns), y(shape.rows, shape.columns),
        dy(shape.rows, shape.columns), dx(shape.rows, shape.columns);
    Buffer<T> w(1, shape.columns), dw(1, shape.columns);
    Buffer<float> rstd(1, shape.rows);
    const std::vector<double> xs = x.fill(random), ws = w.fill(random), dys = dy.fill(random),
                              dxs = dx.fill(random), dws = dw.fill(random);
    std::vector<double> wanted(xs.size()), wanted_rstd(static_cast<std::size_t>(shape.rows));
    ops::rms_norm_forward<double>(rows_of(wanted, shape.rows), wanted_rstd.data(),
                                  rows_of(xs, shape.rows), ws.data(), 1e-5);
    run_everywhere({&y, &rstd}, Capture::yes, [&] {
      Kernels<op::rms_norm, T>::forward(y.view(), rstd.data(), x.constant(), w.data(), 1e-5);
    });
    CHECK(error_of(y.values(), wanted) <= tolerance<T>);
    CHECK(error_of(rstd.values(), wanted_rstd) <= 1e-5);
    run_everywhere({&y}, Capture::yes, [&] {
      Kernels<op::rms_norm, T>::recompute(y.view(), x.constant(), w.data(), rstd.data());
    });
    CHECK(error_of(y.values(), wanted) <= tolerance<T>);

    for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
      ops::Parameter<double> weight("w", 1, shape.columns);
      std::copy(ws.begin(), ws.end(), weight.value().data);
      if (mode == Accumulate::add) {
        weight.begin_gradient();
        std::copy(dws.begin(), dws.end(), weight.gradient().data);
      }
      std::vector<double> wanted_dx = dxs;
      ops::MemoryPool host_pool;
      ops::rms_norm_backward<double>(rows_of(wanted_dx, shape.rows), mode, rows_of(dys, shape.rows),
                                     rows_of(xs, shape.rows), weight, wanted_rstd.data(),
                                     host_pool);
      Matrix<float, test::Backend> shares(
          1, Kernels<op::rms_norm, T>::backward_workspace(shape.rows, shape.columns));
      run_everywhere({&dx, &dw}, Capture::yes, [&] {
        Kernels<op::rms_norm, T>::backward(dx.view(), mode, dy.constant(), x.constant(), w.data(),
                                           rstd.data(), dw.data(), mode, shares.data());
      });
      // The two terms of dx = dy w rstd - ... cancel in a row of one element.
      double term = 0.0;
      for (std::size_t i = 0; i < xs.size(); ++i)
        term = std::max(term, std::abs(dys[i] * ws[i % ws.size()] * wanted_rstd[i / ws.size()]));
      CHECK(error_of(dx.values(), wanted_dx, term) <= tolerance<T>);
      const auto gradient = weight.gradient();
      CHECK(error_of(dw.values(), {gradient.data, gradient.data + shape.columns}) <= tolerance<T>);
    }
  }
}

TEMPLATE_TEST_CASE("device: RMSNorm fused with the addition before it", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> sum(shape.rows, shape.columns), branch(shape.rows, shape.columns),
        y(shape.rows, shape.columns), w(1, shape.columns);
    Buffer<float> rstd(1, shape.rows);
    std::vector<double> added = sum.fill(random), wanted(added.size()),
                        wanted_rstd(static_cast<std::size_t>(shape.rows));
    const std::vector<double> branches = branch.fill(random), ws = w.fill(random);
    for (std::size_t i = 0; i < added.size(); ++i) added[i] += branches[i];
    run_everywhere({&sum, &y, &rstd}, Capture::yes, [&] {
      MoreOps<T>::add_rms_norm_forward(y.view(), rstd.data(), sum.view(), branch.constant(),
                                       w.data(), 1e-5);
    });
    const std::vector<double> got = sum.values();  // the norm is that of the sum rounded to T
    CHECK(error_of(got, added) <= tolerance<T>);
    ops::rms_norm_forward<double>(rows_of(wanted, shape.rows), wanted_rstd.data(),
                                  rows_of(got, shape.rows), ws.data(), 1e-5);
    CHECK(error_of(y.values(), wanted) <= tolerance<T>);
    CHECK(error_of(rstd.values(), wanted_rstd) <= 1e-5);
  }
}

namespace {

// LayerNorm and its gradients, straight from the formulas.
struct LayerNormReference {
  std::vector<double> y, mean, rstd, dx, dw, db;

  LayerNormReference(Shape shape, const std::vector<double>& x, const std::vector<double>& w,
                     const std::vector<double>& b, const std::vector<double>& dy)
      : y(x.size()), dx(x.size()), dw(w.size()), db(w.size()) {
    const auto columns = static_cast<double>(shape.columns);
    for (Index i = 0; i < shape.rows; ++i) {
      const auto first = static_cast<std::size_t>(i * shape.columns);
      double sum = 0.0, squares = 0.0, down = 0.0, back = 0.0;
      for (std::size_t j = 0; j < w.size(); ++j) sum += x[first + j];
      for (std::size_t j = 0; j < w.size(); ++j)
        squares += (x[first + j] - sum / columns) * (x[first + j] - sum / columns);
      mean.push_back(sum / columns), rstd.push_back(1.0 / std::sqrt(squares / columns + 1e-5));
      const auto normed = [&](std::size_t j) { return (x[first + j] - mean.back()) * rstd.back(); };
      for (std::size_t j = 0; j < w.size(); ++j) {
        y[first + j] = w[j] * normed(j) + b[j];
        dw[j] += dy[first + j] * normed(j), db[j] += dy[first + j];
        down += w[j] * dy[first + j], back += w[j] * dy[first + j] * normed(j);
      }
      for (std::size_t j = 0; j < w.size(); ++j)
        dx[first + j] =
            rstd.back() * (w[j] * dy[first + j] - down / columns - normed(j) * back / columns);
    }
  }
};

std::vector<double> sum_of(const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<double> sum = x;
  for (std::size_t i = 0; i < y.size(); ++i) sum[i] += y[i];
  return sum;
}

}  // namespace

TEMPLATE_TEST_CASE(
    "device: LayerNorm forward, fused with the addition before it, recomputed and backward", "",
    DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> x(shape.rows, shape.columns), y(shape.rows, shape.columns),
        dy(shape.rows, shape.columns), dx(shape.rows, shape.columns);
    Buffer<T> w(1, shape.columns), b(1, shape.columns), dw(1, shape.columns), db(1, shape.columns),
        sum(shape.rows, shape.columns);
    Buffer<float> mean(1, shape.rows), rstd(1, shape.rows),
        share(1, MoreOps<T>::layer_norm_backward_workspace(shape.rows, shape.columns));
    const std::vector<double> xs = x.fill(random), ws = w.fill(random), bs = b.fill(random),
                              dys = dy.fill(random), dxs = dx.fill(random);
    const std::vector<double> dws = dw.fill(random), dbs = db.fill(random), sums = sum.fill(random);

    run_everywhere({&sum, &y, &mean, &rstd}, Capture::yes, [&] {
      MoreOps<T>::add_layer_norm_forward(y.view(), mean.data(), rstd.data(), sum.view(),
                                         x.constant(), w.data(), b.data(), 1e-5);
    });
    const std::vector<double> got = sum.values();
    CHECK(error_of(got, sum_of(sums, xs)) <= tolerance<T>);
    CHECK(error_of(y.values(), LayerNormReference(shape, got, ws, bs, dys).y) <= tolerance<T>);

    const LayerNormReference wanted(shape, xs, ws, bs, dys);
    run_everywhere({&y, &mean, &rstd}, Capture::yes, [&] {
      MoreOps<T>::layer_norm_forward(y.view(), mean.data(), rstd.data(), x.constant(), w.data(),
                                     b.data(), 1e-5);
    });
    CHECK(error_of(y.values(), wanted.y) <= tolerance<T>);
    CHECK(error_of(mean.values(), wanted.mean) <= 1e-5);
    CHECK(error_of(rstd.values(), wanted.rstd) <= 1e-5);
    const std::vector<double> forward = y.values();
    run_everywhere({&y}, Capture::yes, [&] {
      MoreOps<T>::layer_norm_recompute(y.view(), x.constant(), w.data(), b.data(), mean.data(),
                                       rstd.data());
    });
    CHECK(y.values() == forward);

    for (const bool add : {false, true}) {
      if (shape.columns == 1 && !add) continue;  // only rounding error in one element
      run_everywhere({&dx, &dw, &db}, Capture::yes, [&] {
        MoreOps<T>::layer_norm_backward(dx.view(), add, dy.constant(), x.constant(), w.data(),
                                        mean.data(), rstd.data(), dw.data(), db.data(), add,
                                        share.data());
      });
      CHECK(error_of(dx.values(), add ? sum_of(dxs, wanted.dx) : wanted.dx) <= tolerance<T>);
      CHECK(error_of(dw.values(), add ? sum_of(dws, wanted.dw) : wanted.dw) <= tolerance<T>);
      CHECK(error_of(db.values(), add ? sum_of(dbs, wanted.db) : wanted.db) <= tolerance<T>);
      run_everywhere({&dx}, Capture::yes, [&] {  // frozen
        MoreOps<T>::layer_norm_backward(dx.view(), add, dy.constant(), x.constant(), w.data(),
                                        mean.data(), rstd.data(), nullptr, nullptr, false, nullptr);
      });
      CHECK(error_of(dx.values(), add ? sum_of(dxs, wanted.dx) : wanted.dx) <= tolerance<T>);
    }
  }
}

TEMPLATE_TEST_CASE("device: heads are rotated, forward and inverse", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Index head_size : {Index{64}, Index{6}}) {
    INFO("heads of " << head_size << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    const Index heads = 3, sequence = 35, rows = 2 * sequence;
    auto random = generator({rows, head_size});
    Buffer<T> x(rows, 4 * head_size);
    const std::vector<double> xs = x.fill(random);
    const ops::RopeTable<double> table(sequence, head_size);
    const ops::RopeTable<T, test::Backend> device_table(sequence, head_size);
    for (const ops::Rotation rotation : {ops::Rotation::forward, ops::Rotation::inverse}) {
      std::vector<double> wanted = xs;
      ops::rope<double>(rows_of(wanted, rows), table, heads, sequence, rotation);
      run_everywhere({&x}, Capture::yes, [&] {
        Kernels<op::rope, T>::run(x.view(), device_table.cosine(), device_table.sine(), heads,
                                  head_size / 2, sequence, rotation);
      });
      CHECK(error_of(x.values(), wanted) <= tolerance<T>);
    }
  }
}

TEMPLATE_TEST_CASE("device: attention stays within its bounds", "", DROPBP_SCALARS) {
  using T = TestType;
  constexpr auto own = ops::AttentionCode::own;  // a library's code: see cudnn_test.cpp
  const std::vector<test::AttentionCase> cases = {
      {{.batch = 1, .sequence = 1, .heads = 1, .kv_heads = 1, .head_size = 1}, 0},
      {{.batch = 2, .sequence = 65, .heads = 4, .kv_heads = 2, .head_size = 32}, 0},
      {{.batch = 1, .sequence = 130, .heads = 3, .kv_heads = 1, .head_size = 64}, 0},
      {{.batch = 1, .sequence = 64, .heads = 2, .kv_heads = 2, .head_size = 96}, 0},
      {{.batch = 1, .sequence = 300, .heads = 4, .kv_heads = 2, .head_size = 128}, 0},
      {{.batch = 1, .sequence = 63, .heads = 2, .kv_heads = 1, .head_size = 31}, 0},
  };
  for (const test::AttentionCase& c : cases) {
    INFO(c.text() << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator({c.tokens(), c.width()});
    Buffer<T> qkv(c.tokens(), c.width()), o(c.tokens(), c.shape.q_width()),
        grad_o(c.tokens(), c.shape.q_width()), grad_qkv(c.tokens(), c.width());
    Buffer<float> lse(1, c.shape.statistics());
    const std::vector<double> x = qkv.fill(random), g = grad_o.fill(random);
    const ops::HeadLayout layout{c.shape.heads, c.shape.kv_heads, c.shape.head_size};
    const ops::SequenceShape shape{c.shape.batch, c.shape.sequence};
    run_everywhere({&o, &lse}, Capture::yes, [&] {
      Kernels<op::attention, T>::forward(o.view(), lse.data(), qkv.constant(), layout, shape, own);
    });
    const auto forward = test::attention_reference<T>(c, x, g);
    CHECK(test::problem("o", o.values(), forward.o) == "");
    CHECK(test::problem("lse", lse.values(), forward.lse) == "");
    const std::vector<double> os = o.values(), statistics = lse.values();
    run_everywhere({&grad_qkv}, Capture::yes, [&] {
      Kernels<op::attention, T>::backward(grad_qkv.view(), grad_o.constant(), qkv.constant(),
                                          o.constant(), lse.data(), layout, shape, own);
    });
    const auto backward = test::attention_reference<T>(c, x, g, &os, &statistics);
    CHECK(test::problem("grad_qkv", grad_qkv.values(), backward.grad_qkv) == "");
  }
}

TEMPLATE_TEST_CASE("device: SwiGLU forward and backward", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> gate_up(shape.rows, 2 * shape.columns), out(shape.rows, shape.columns),
        grad(shape.rows, 2 * shape.columns);
    const std::vector<double> x = gate_up.fill(random);
    std::vector<double> wanted(static_cast<std::size_t>(shape.rows * shape.columns)),
        wanted_grad(x.size());
    ops::swiglu_forward<double>(rows_of(wanted, shape.rows), rows_of(x, shape.rows));
    run_everywhere({&out}, Capture::yes,
                   [&] { Kernels<op::swiglu, T>::forward(out.view(), gate_up.constant()); });
    CHECK(error_of(out.values(), wanted) <= tolerance<T>);
    std::vector<double> d_out = out.fill(random);
    ops::swiglu_backward<double>(rows_of(wanted_grad, shape.rows), rows_of(d_out, shape.rows),
                                 rows_of(x, shape.rows));
    run_everywhere({&grad, &out}, Capture::yes, [&] {
      Kernels<op::swiglu, T>::backward(grad.view(), out.view(), gate_up.constant());
    });
    CHECK(error_of(grad.values(), wanted_grad) <= tolerance<T>);
    CHECK(error_of(out.values(), d_out) <= tolerance<T>);
  }
}

TEMPLATE_TEST_CASE("device: GELU forward and backward", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> in(shape.rows, shape.columns), out(shape.rows, shape.columns),
        grad(shape.rows, shape.columns);
    const std::vector<double> x = in.fill(random);
    std::vector<double> wanted, wanted_grad, d_out;
    const double root = std::sqrt(2.0 / std::acos(-1.0));
    for (const double v : x)
      wanted.push_back(0.5 * v * (1.0 + std::tanh(root * (v + 0.044715 * v * v * v))));
    run_everywhere({&out}, Capture::yes,
                   [&] { MoreOps<T>::gelu_forward(out.view(), in.constant()); });
    CHECK(error_of(out.values(), wanted) <= tolerance<T>);
    d_out = out.fill(random);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double v = x[i], t = std::tanh(root * (v + 0.044715 * v * v * v));
      wanted_grad.push_back(d_out[i] * (0.5 * (1.0 + t) + 0.5 * v * (1.0 - t * t) * root *
                                                              (1.0 + 3.0 * 0.044715 * v * v)));
    }
    run_everywhere({&grad}, Capture::yes,
                   [&] { MoreOps<T>::gelu_backward(grad.view(), out.constant(), in.constant()); });
    CHECK(error_of(grad.values(), wanted_grad) <= tolerance<T>);
    run_everywhere({&out}, Capture::yes, [&] {
      MoreOps<T>::gelu_backward(out.view(), out.constant(), in.constant());
    });  // in place
    CHECK(error_of(out.values(), wanted_grad) <= tolerance<T>);
  }
}

TEMPLATE_TEST_CASE("device: the embedding and its gradient", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    const Index vocabulary = 19;
    std::vector<std::int32_t> tokens;
    for (Index t = 0; t < shape.rows; ++t)
      tokens.push_back(static_cast<std::int32_t>(random() % 19));
    Buffer<T> weight(vocabulary, shape.columns), gradient(vocabulary, shape.columns),
        out(shape.rows, shape.columns), d_out(shape.rows, shape.columns);
    const std::vector<double> ws = weight.fill(random), g = d_out.fill(random),
                              before = gradient.fill(random);
    run_everywhere({&out}, Capture::refused, [&] {
      Kernels<op::embedding, T>::forward(out.view(), tokens, weight.constant());
    });
    const std::vector<double> got = out.values();
    std::vector<double> sums(ws.size());
    for (Index t = 0; t < shape.rows; ++t)
      for (Index j = 0; j < shape.columns; ++j) {
        const auto at = static_cast<std::size_t>(t * shape.columns + j);
        const auto of =
            static_cast<std::size_t>(tokens[static_cast<std::size_t>(t)] * shape.columns + j);
        if (got[at] != ws[of]) FAIL("another row's element");
        sums[of] += g[at];
      }
    run_everywhere({&gradient}, Capture::refused, [&] {
      Kernels<op::embedding, T>::backward(gradient.view(), Accumulate::overwrite, d_out.constant(),
                                          tokens);
    });
    CHECK(error_of(gradient.values(), sums) <= tolerance<T>);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += before[i];
    run_everywhere({&gradient}, Capture::refused, [&] {
      Kernels<op::embedding, T>::backward(gradient.view(), Accumulate::add, d_out.constant(),
                                          tokens);
    });
    CHECK(error_of(gradient.values(), sums) <= tolerance<T>);
  }
}

TEMPLATE_TEST_CASE("device: losses and their gradient", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : shapes) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    Buffer<T> logits(shape.rows, shape.columns);
    Buffer<float> losses(1, shape.rows);
    Buffer<std::int32_t> targets(1, shape.rows, [&] {
      std::vector<double> ids;
      for (Index t = 0; t < shape.rows; ++t)
        ids.push_back(
            t == 2 ? -100.0
                   : static_cast<double>(random() % static_cast<std::uint64_t>(shape.columns)));
      return ids;
    }());
    std::vector<std::int32_t> ids;
    for (const double id : targets.values()) ids.push_back(static_cast<std::int32_t>(id));
    std::vector<double> wanted = logits.fill(random), wanted_losses(ids.size());
    const auto counted = static_cast<double>(
        std::count_if(ids.begin(), ids.end(), [](std::int32_t id) { return id != -100; }));
    ops::cross_entropy_rows<double>(rows_of(wanted, shape.rows), wanted_losses.data(), ids.data(),
                                    -100, counted, true);
    run_everywhere({&logits, &losses}, Capture::yes, [&] {
      Kernels<op::cross_entropy, T>::run(logits.view(), losses.data(), targets.data(), -100,
                                         counted, true);
    });
    CHECK(error_of(logits.values(), wanted) <= tolerance<T>);
    CHECK(error_of(losses.values(), wanted_losses) <= 1e-5);
  }
}

TEMPLATE_TEST_CASE("device: 4-bit weights expand to those of the CPU", "", DROPBP_SCALARS) {
  using T = TestType;
  for (const Shape shape : {Shape{64, 256}, Shape{9, 65}}) {
    INFO(shape.rows << " x " << shape.columns << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator(shape);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::vector<float> values(static_cast<std::size_t>(shape.rows * shape.columns)),
        expanded(values.size());
    for (float& value : values) value = normal(random);
    const MatrixView<const float> view(values.data(), shape.rows, shape.columns);
    ops::Nf4Matrix::quantize(view).dequantize(
        MatrixView<float>(expanded.data(), shape.rows, shape.columns));
    Buffer<T> wanted(shape.rows, shape.columns, {expanded.begin(), expanded.end()}),
        got(shape.rows, shape.columns);
    const auto quantized = ops::BasicNf4Matrix<test::Backend>::quantize(view);
    run_everywhere({&got}, Capture::yes, [&] { quantized.dequantize(got.view()); });
    CHECK(got.values() == wanted.values());
  }
}

TEMPLATE_TEST_CASE("device: rows in 8 bits and their products are those of the CPU", "",
                   DROPBP_SCALARS) {
  using T = TestType;
  for (const auto& [m, n, k] : {std::array<Index, 3>{130, 256, 96}, {7, 32, 4096}, {1, 16, 16}}) {
    INFO(m << " x " << n << " x " << k << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    auto random = generator({m, k});
    Buffer<T> x(m, k), w(n, k);
    Buffer<std::uint8_t> codes(m, k);
    Buffer<float> scales(1, m);
    const auto floats = [](const std::vector<double>& values) {
      return std::vector<float>(values.begin(), values.end());
    };
    const std::vector<float> xs = floats(x.fill(random)), ws = floats(w.fill(random));
    run_everywhere({&codes, &scales}, Capture::yes, [&] {
      Kernels<op::fp8, T>::quantize(codes.view(), scales.data(), x.constant());
    });
    const auto fx = ops::Fp8Matrix::quantize({xs.data(), m, k}),
               fw = ops::Fp8Matrix::quantize({ws.data(), n, k});
    const auto same = [](const std::vector<double>& got, const auto* wanted) {
      return std::equal(got.begin(), got.end(), wanted,
                        [](double a, auto b) { return a == static_cast<double>(b); });
    };
    CHECK(same(codes.values(), fx.codes().data));
    CHECK(same(scales.values(), fx.scales()));

    std::vector<double> dx(xs.size()), dw(ws.size());
    fx.dequantize(rows_of(dx, m)), fw.dequantize(rows_of(dw, n));
    const auto on_device = ops::BasicFp8Matrix<test::Backend>::quantize({ws.data(), n, k});
    for (const Accumulate mode : {Accumulate::overwrite, Accumulate::add}) {
      Buffer<T> y(m, n);
      const std::vector<double> before = y.fill(random);
      bool ran = false;
      run_everywhere({&y}, Capture::yes, [&] {
        ran = Kernels<op::fp8_gemm, T>::run(
            y.view(), MatrixView<const std::uint8_t, test::Backend>(codes.constant()),
            scales.data(), on_device.codes(), on_device.scales(), mode);
      });
      if (!ran) {  // Half has none where the scales are applied by a kernel
        CHECK((std::is_same_v<T, Half> || !ops::multiplies_fp8<T, test::Backend>()));
        continue;
      }
      const std::vector<double> got = y.values();
      for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < n; ++j) {
          const auto at = static_cast<std::size_t>(i * n + j);
          double sum = mode == Accumulate::add ? before[at] : 0.0, terms = std::abs(sum);
          for (Index p = 0; p < k; ++p) {
            const double term =
                dx[static_cast<std::size_t>(i * k + p)] * dw[static_cast<std::size_t>(j * k + p)];
            sum += term, terms += std::abs(term);
          }
          // The tensor cores of Hopper add 128 terms with fewer bits than float has.
          const double bound = tolerance<T> * std::abs(sum) + 0x1p-10 * terms;
          REQUIRE(std::abs(got[at] - sum) <= bound);
        }
    }
  }
}

TEMPLATE_TEST_CASE("device: AdamW over many parameters in one launch", "", DROPBP_SCALARS) {
  using T = TestType;
  INFO("DROPBP_TEST_SEED=" << test::fresh_seed());
  auto random = generator({3, 3});
  const ops::AdamWOptions options{
      .learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  for (const Index size : {Index{1}, Index{1000}, Index{70001}}) {
    Buffer<T> value(1, size), gradient(1, size);
    Buffer<float> master(1, size), first(1, size), second(1, size);
    const std::vector<double> g = gradient.fill(random), before = value.fill(random),
                              exact = master.fill(random), m = first.fill(random);
    std::vector<double> v;
    for (const double x : m) v.push_back(x * x);
    second = Buffer<float>(1, size, v);
    const auto constants = ops::detail::adamw_constants<float>(options, 0.5);
    const float step_size = 0.01f, correction = 1.5f, keep = 0.999f;
    std::vector<double> wanted(g.size());
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double scaled = 0.5 * g[i], mi = options.beta1 * m[i] + (1 - options.beta1) * scaled;
      const double vi = options.beta2 * v[i] + (1 - options.beta2) * scaled * scaled;
      wanted[i] = double{keep} * (std::is_same_v<T, float> ? before[i] : exact[i]) -
                  double{step_size} * mi / (std::sqrt(vi) * double{correction} + options.eps);
    }
    dropbp::ops::AdamWSegment<T> segment{
        .value = value.data(),
        .gradient = gradient.data(),
        .master = std::is_same_v<T, float> ? nullptr : master.data(),
        .first_moment = first.data(),
        .second_moment = second.data(),
        .size = size,
        .step_size = step_size,
        .root_correction = correction,
        .keep = keep,
        .first_chunk = 0};
    run_everywhere({&value, &master, &first, &second}, Capture::refused,
                   [&] { Kernels<op::adamw, T>::run({&segment, 1}, constants); });
    CHECK(error_of(value.values(), wanted) <= tolerance<T>);
  }
}

TEMPLATE_TEST_CASE("device: squared norms and distances", "", DROPBP_SCALARS) {
  using T = TestType;
  INFO("DROPBP_TEST_SEED=" << test::fresh_seed());
  auto random = generator({5, 5});
  std::vector<Buffer<T>> tensors;
  std::vector<double> wanted;
  for (const Index size : {Index{0}, Index{1}, Index{1000}, Index{200003}}) {
    tensors.emplace_back(1, size);
    double sum = 0.0;
    for (const double x : tensors.back().fill(random)) sum += x * x;
    wanted.push_back(sum);
  }
  std::vector<ops::DeviceSpan<const T, test::Backend>> spans;
  for (Buffer<T>& tensor : tensors)
    spans.emplace_back(tensor.data(), static_cast<std::size_t>(tensor.view().columns));
  const std::vector<double> got = Kernels<op::squared_norms, T>::run(spans);
  CHECK(got == Kernels<op::squared_norms, T>::run(spans));
  test::check_refused_in_capture(
      [&] { static_cast<void>(Kernels<op::squared_norms, T>::run(spans)); });
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(wanted[i]).epsilon(1e-5));

  Buffer<T> other(1, 200003);
  const std::vector<double> x = tensors.back().values(), y = other.fill(random);
  double distance = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) distance += (x[i] - y[i]) * (x[i] - y[i]);
  const auto measured = [&] {
    return Kernels<op::squared_norms, T>::distance(tensors.back().data(), other.data(), x.size());
  };
  CHECK(measured() == Approx(distance).epsilon(1e-5));
  CHECK(measured() == measured());
  test::check_refused_in_capture([&] { static_cast<void>(measured()); });
}

TEMPLATE_TEST_CASE(
    "device: an op that cannot be captured leaves the optimizer and the gradient unchanged", "",
    DROPBP_SCALARS) {
  using T = TestType;
  ops::Parameter<T, test::Backend> weight("w", 3, 8);
  test::set_values<test::Backend>(weight.value().data, std::vector<float>(24, 1.0f));
  ops::AdamW<T, test::Backend> optimizer({&weight}, {.learning_rate = 0.5, .weight_decay = 0.0});
  const std::vector<std::int32_t> tokens = {2, 0, 2};
  Buffer<T> grad_output(3, 8);
  test::check_refused_in_capture(
      [&] { ops::embedding_backward(grad_output.constant(), tokens, weight); });
  CHECK_FALSE(weight.has_gradient());
  weight.begin_gradient();
  test::set_values<test::Backend>(weight.gradient().data, std::vector<float>(24, 1.0f));
  test::check_refused_in_capture([&] { optimizer.step(); });
  CHECK(optimizer.state(0).steps == 0);
  CHECK(optimizer.state(0).first_moment.size() == 0);
  optimizer.step();
  for (const float value : test::values_of<test::Backend>(weight.value().data, 24))
    CHECK(value == Approx(0.5f));  // the first step changes each weight by the learning rate
}

TEST_CASE("device: memory and copies") {
  using test::Device;
  CHECK(Device::allocate(0) == nullptr);
  void* const memory = Device::allocate(1000);
  std::vector<unsigned char> bytes(1000, 7), back(1000);
  Device::copy_to_device(memory, bytes.data(), 1000);
  std::fill(bytes.begin(), bytes.end(), static_cast<unsigned char>(9));  // the copy is done
  Device::copy_to_host(back.data(), memory, 1000);
  CHECK(back == std::vector<unsigned char>(1000, 7));
  Device::fill(memory, 0x5A, 500);
  Device::copy_to_host(back.data(), memory, 1000);
  CHECK((back[499] == 0x5A && back[500] == 7));
  test::check_refused_in_capture([&] { Device::copy_to_device(memory, bytes.data(), 1000); });
  test::check_refused_in_capture([&] { Device::copy_to_host(back.data(), memory, 1000); });
  Device::copy_to_host(back.data(), memory, 1000);
  CHECK((back[499] == 0x5A && back[500] == 7));
  Device::release(memory, 1000);
#if !defined(DROPBP_TEST_EMULATED)
  CHECK(Device::unavailable_reason() == "");
  CHECK(Device::processors() > 0);
  test::check_throws<std::runtime_error>([] { Device::allocate(std::size_t{1} << 43); },
                                         {"8796093022208 bytes of device memory are needed",
                                          "are free", "--batch", "--activation-budget"});
  float* const none = nullptr;
  test::check_throws<std::invalid_argument>(
      [&] {
        Kernels<op::gemm, float>::run(ops::GemmLayout::nn, {none, 4, 4, 3}, {none, 4, 4},
                                      {none, 4, 4}, Accumulate::overwrite);
      },
      {"rows that do not overlap", "C [4, 4] (rows 3 apart)"});
#endif
}
