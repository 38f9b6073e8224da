// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A pipeline of two stages over MPI, each on a rank (mpirun -n 2), or both on one (mpirun -n 1),
// which prints the same. Each micro-batch has a plan, which every rank computes by itself. A stage
// below the lowest kept branch gets no gradient, and none is sent to it.
#include <cmath>
#include <cstdio>
#include <vector>

#include <mpi.h>

#include <dropbp/dropbp.hpp>
#include <dropbp/interop/mpi.hpp>

constexpr std::size_t width = 32, branches = 8, stages = 2, micro_batches = 4;
constexpr float learning_rate = 0.01f;

// What a stage keeps of one micro-batch: the stream and f of each kept branch.
struct Saved {
  std::vector<float> x[branches], f[branches];
};

// The branches [first, last) of a model, with f = tanh(w * x) element by element.
struct Stage {
  std::size_t first, last;
  std::vector<float> weights = std::vector<float>(branches * width, 0.1f);
  std::vector<float> gradients = std::vector<float>(branches * width);

  void forward(const dropbp::DropPlan& plan, std::vector<float>& stream, Saved& saved) const {
    for (std::size_t l = first; l < last; ++l) {
      std::vector<float> f(width);
      for (std::size_t i = 0; i < width; ++i) f[i] = std::tanh(weights[l * width + i] * stream[i]);
      if (plan.kept(l)) saved.x[l] = stream, saved.f[l] = f;  // a dropped branch saves nothing
      for (std::size_t i = 0; i < width; ++i) stream[i] += f[i];
    }
  }

  void backward(const dropbp::DropPlan& plan, std::vector<float>& grad, const Saved& saved) {
    for (std::size_t l = last; l-- > first;) {
      if (plan.dropped(l)) continue;  // the gradient passes unchanged
      for (std::size_t i = 0; i < width; ++i) {
        const float grad_sum = grad[i] * (1 - saved.f[l][i] * saved.f[l][i]);
        gradients[l * width + i] += grad_sum * saved.x[l][i];
        if (plan.input_gradient_needed(l)) grad[i] += grad_sum * weights[l * width + i];
      }
    }
  }

  // A dropped branch has no gradient: `trained` is 1 for those that a micro-batch kept.
  void update(const std::vector<char>& trained) {
    for (std::size_t l = first; l < last; ++l)
      for (std::size_t i = l * width; trained[l] != 0 && i < (l + 1) * width; ++i)
        weights[i] -= learning_rate * gradients[i], gradients[i] = 0;
  }
};

void send(std::vector<float>& values, int rank) {
  MPI_Send(values.data(), int(width), MPI_FLOAT, rank, 0, MPI_COMM_WORLD);
}
void receive(std::vector<float>& values, int rank) {
  MPI_Recv(values.data(), int(width), MPI_FLOAT, rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

float input_of(std::uint64_t step, std::size_t m, std::size_t i) {
  return std::sin(float(i + 1) + float(step % 3) + float(m));
}

// One function, because it is the pipeline's order of work: all forward, then all backward passes.
void train(int rank, int ranks) {
  const bool lowest = rank == 0, highest = rank == ranks - 1;
  Stage stage{branches / std::size_t(ranks) * std::size_t(rank),
              branches / std::size_t(ranks) * std::size_t(rank + 1)};

  std::vector<std::uint32_t> stage_of_branch;
  for (std::size_t l = 0; l < branches; ++l)
    stage_of_branch.push_back(std::uint32_t(l / (branches / stages)));
  // All stages keep equally many branches, so that none waits for a slower one.
  const dropbp::DropSchedule schedule{
      std::vector<double>(branches, 1.0),
      {.drop_rate = 0.8, .seed = 42, .trainable_below = false, .groups = stage_of_branch},
      dropbp::PerStageBudgetSampling{}};

  int sent_down = 0;
  for (std::uint64_t step = 0; step < 60; ++step) {
    std::vector<dropbp::DropPlan> plans;
    for (std::size_t m = 0; m < micro_batches; ++m)
      plans.push_back(schedule.plan(step, std::uint32_t(m)));

    std::vector<Saved> saved(micro_batches);
    std::vector<std::vector<float>> streams(micro_batches, std::vector<float>(width));
    for (std::size_t m = 0; m < micro_batches; ++m) {
      if (!lowest) receive(streams[m], rank - 1);
      for (std::size_t i = 0; lowest && i < width; ++i) streams[m][i] = input_of(step, m, i);
      stage.forward(plans[m], streams[m], saved[m]);
      if (!highest) send(streams[m], rank + 1);
    }

    float loss = 0;
    std::vector<char> trained(branches);
    for (std::size_t m = 0; m < micro_batches; ++m) {
      std::vector<float> grad(width);
      for (std::size_t i = 0; highest && i < width; ++i) {
        grad[i] = streams[m][i] - 2 * input_of(step, m, i);
        loss += grad[i] * grad[i] / 2;
      }
      for (std::size_t l = 0; l < branches; ++l) trained[l] |= char(plans[m].kept(l));
      // Both ranks of a message ask the same question of the same plan.
      const std::size_t lowest_kept = plans[m].lowest_kept();
      if (lowest_kept >= stage.last) continue;
      if (!highest) receive(grad, rank + 1);
      stage.backward(plans[m], grad, saved[m]);
      if (lowest_kept < stage.first) send(grad, rank - 1), ++sent_down;
    }
    stage.update(trained);
    if (highest && (step % 20 == 0 || step == 59)) {
      std::size_t kept[stages] = {};
      for (std::size_t l = 0; l < branches; ++l) kept[stage_of_branch[l]] += plans[0].kept(l);
      std::printf("step %2d  loss %.6f  kept in the stages: %zu %zu\n", int(step), double(loss),
                  kept[0], kept[1]);
    }
  }
  if (sent_down > 0)
    std::fprintf(stderr, "%d gradients sent down for %d micro-batches\n", sent_down,
                 60 * int(micro_batches));
}

int main(int argc, char** argv) {
  return dropbp::run_with_mpi(argc, argv, [] {
    int rank = 0, ranks = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks > int(stages)) {
      if (rank == 0) std::fprintf(stderr, "pipeline: start it with mpirun -n 1 or -n 2\n");
      return 2;
    }
    train(rank, ranks);
    return 0;
  });
}
