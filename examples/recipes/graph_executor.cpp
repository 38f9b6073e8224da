// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A trainer that executes a graph: nodes in topological order, each a number. Which branch a node
// belongs to is a label; the executor asks the plan for it, and nothing else changes.
#include <cmath>
#include <cstdio>
#include <vector>

#include <dropbp/dropbp.hpp>

enum class Kind { input, scale, tanh, add };
constexpr std::size_t outside = ~std::size_t{0};  // of all branches

struct Node {
  Kind kind;
  std::size_t a = 0, b = 0;  // inputs
  double weight = 0;         // of scale
  std::size_t branch = outside;
};

struct Executor {
  std::vector<Node> nodes;
  std::vector<double> values, gradients, weight_gradients;
  std::size_t backward_nodes = 0;
  std::vector<double> constants = {};  // not empty: the values that dropped nodes keep

  std::size_t append(const Node& node) {
    nodes.push_back(node);
    return nodes.size() - 1;
  }

  double forward(double x, const dropbp::DropPlan& plan) {
    values.assign(nodes.size(), 0);
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      const Node& node = nodes[n];
      const double a = values[node.a], b = values[node.b];
      values[n] = node.kind == Kind::input   ? x
                  : node.kind == Kind::scale ? node.weight * a
                  : node.kind == Kind::tanh  ? std::tanh(a)
                                             : a + b;
      if (!constants.empty() && is_dropped(node, plan)) values[n] = constants[n];
    }
    return values.back();
  }

  static bool is_dropped(const Node& node, const dropbp::DropPlan& plan) {
    return node.branch != outside && plan.dropped(node.branch);
  }

  void backward(const dropbp::DropPlan& plan) {
    gradients.assign(nodes.size(), 0);
    weight_gradients.assign(nodes.size(), 0);
    gradients.back() = 1;
    for (std::size_t n = nodes.size(); n-- > 0;) {
      const Node& node = nodes[n];
      if (is_dropped(node, plan)) continue;  // the sum passes the gradient to the residual path too
      ++backward_nodes;
      const double grad = gradients[n];
      if (node.kind == Kind::scale) {
        weight_gradients[n] += grad * values[node.a];
        gradients[node.a] += grad * node.weight;
      } else if (node.kind == Kind::tanh) {
        gradients[node.a] += grad * (1 - values[n] * values[n]);
      } else if (node.kind == Kind::add) {
        gradients[node.a] += grad;
        gradients[node.b] += grad;
      }
    }
  }
};

int main() {
  constexpr std::size_t branches = 6;
  Executor executor;
  std::size_t stream = executor.append({Kind::input});
  for (std::size_t b = 0; b < branches; ++b) {  // stream + tanh(w stream)
    const double weight = 0.5 - 0.2 * double(b);
    const std::size_t scaled = executor.append({Kind::scale, stream, 0, weight, b});
    const std::size_t branch = executor.append({Kind::tanh, scaled, 0, 0, b});
    stream = executor.append({Kind::add, stream, branch});
  }

  const dropbp::DropSchedule<> schedule(std::vector<double>(branches, 1.0), {.drop_rate = 0.5});
  double worst = 0;
  std::size_t kept = 0;
  for (std::uint64_t step = 0; step < 20; ++step) {
    const dropbp::DropPlan plan = schedule.plan(step);
    kept += plan.kept_count();
    executor.forward(0.4, plan);
    executor.backward(plan);
    // The check: the slope of an output in which dropped nodes are constants.
    executor.constants = executor.values;
    for (std::size_t n = 0; n < executor.nodes.size(); ++n) {
      const double weight = executor.nodes[n].weight, distance = 1e-5;
      executor.nodes[n].weight = weight + distance;
      const double above = executor.forward(0.4, plan);
      executor.nodes[n].weight = weight - distance;
      const double slope = (above - executor.forward(0.4, plan)) / (2 * distance);
      executor.nodes[n].weight = weight;
      worst = std::fmax(worst, std::fabs(slope - executor.weight_gradients[n]));
    }
    executor.constants.clear();
  }
  std::printf("%zu kept branches, %zu nodes run backward, gradients differ by %.1e\n", kept,
              executor.backward_nodes, worst);
  return worst < 1e-8 && executor.backward_nodes == 20 * (branches + 1) + 2 * kept ? 0 : 1;
}
