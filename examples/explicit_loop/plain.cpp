// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Trains a byte-level GPT-2 over float pointers into one arena, with hand-written forward and
// backward loops.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <vector>

#include "gpt2.hpp"

// Branch 2 l is the attention of layer l, branch 2 l + 1 its MLP. In arrays of two, [0] belongs to
// attention and [1] to MLP.
template <class Real>
struct Trainer {
  Shape shape;
  Parameters<Real> all;
  Ends<Real> ends;
  std::vector<Attention<Real>> attention;
  std::vector<Mlp<Real>> mlp;
  Work<Real> work;
  Real *stream, *grad;
  std::array<std::size_t, 2> slot_count, slot_size;
  std::array<Real*, 2> slots;  // what the branches save for the backward pass

  Trainer(Arena<Real>& arena, const Shape& s, std::array<std::size_t, 2> counts)
      : shape(s),
        all(arena, s),
        ends(arena, all, s),
        work(arena, s),
        stream(arena.take(s.stream())),
        grad(arena.take(s.stream())),
        slot_count(counts),
        slot_size{Attention<Real>::Saved::size(s), Mlp<Real>::Saved::size(s)} {
    for (std::size_t l = 0; l < s.layers; ++l) {
      attention.emplace_back(all, s);
      mlp.emplace_back(all, s);
    }
    for (std::size_t kind = 0; kind < 2; ++kind)
      slots[kind] = arena.take(slot_count[kind] * slot_size[kind]);
  }

  std::size_t branches() const { return 2 * shape.layers; }

  std::array<Parameter<Real>*, 6> parameters(std::size_t branch) {
    return branch % 2 == 0 ? attention[branch / 2].parameters() : mlp[branch / 2].parameters();
  }

  Real* slot(std::size_t branch) const {
    const std::size_t kind = branch % 2;
    return slots[kind] + branch / 2 * slot_size[kind];
  }

  void initialise_all(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (Parameter<Real>* p : ends.parameters())
      initialise(*p, random, p->is_matrix ? Real(0.2) : Real(0));
    std::fill_n(ends.norm_w.value, shape.hidden, Real(1));
    for (std::size_t branch = 0; branch < branches(); ++branch) {
      for (Parameter<Real>* p : parameters(branch))
        initialise(*p, random, p->is_matrix ? Real(0.1) : Real(0));
      std::fill_n(parameters(branch)[0]->value, shape.hidden, Real(1));
    }
  }

  Real forward(const std::uint8_t* tokens, const std::uint8_t* targets) {
    ends.embed(stream, tokens, shape);
    for (std::size_t branch = 0; branch < branches(); ++branch) {
      if (branch % 2 == 0)
        attention[branch / 2].forward(stream, slot(branch), shape);
      else
        mlp[branch / 2].forward(stream, slot(branch), shape);
    }
    return ends.loss(stream, targets, shape);
  }

  void backward(const std::uint8_t* tokens) {
    ends.loss_backward(grad, work, shape);
    for (std::size_t branch = branches(); branch-- > 0;) {
      Real* grad_input = branch > 0 || shape.trains_embeddings ? grad : nullptr;
      if (branch % 2 == 0)
        attention[branch / 2].backward(grad_input, grad, slot(branch), work, shape);
      else
        mlp[branch / 2].backward(grad_input, grad, slot(branch), work, shape);
    }
    if (shape.trains_embeddings) ends.embed_backward(grad, tokens, shape);
  }

  void update(Real learning_rate) {
    const std::size_t first = shape.trains_embeddings ? 0 : shape.embeddings();
    adamw(all, first, all.used - first, learning_rate, ++all.steps);
  }
};

constexpr std::string_view text =
    "In a residual network every branch adds its share to what came before. The forward pass adds "
    "all of them, and so the loss is what it always was. On the way back each branch passes the "
    "gradient on and adds a share of its own. Leave that share out, and the gradient still finds "
    "its way down: a little poorer, and a good deal sooner. What a branch does not take part in it "
    "need not remember, and the memory that it would have filled is free for a longer text.\n";

int main(int argc, char** argv) {
  const Shape shape{.layers = 4,
                    .heads = 4,
                    .hidden = 32,
                    .sequence = 32,
                    .batch = 4,
                    .vocabulary = 256,
                    .trains_embeddings = false};  // as often in fine-tuning
  const std::uint64_t steps = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 60;

  const std::array<std::size_t, 2> slot_count{shape.layers, shape.layers};
  Arena<float> arena;
  Trainer<float>(arena, shape, slot_count);  // only counts the memory
  std::vector<float> memory(arena.used);
  arena = {memory.data()};
  Trainer<float> trainer(arena, shape, slot_count);
  trainer.initialise_all(1);
  std::printf(
      "%zu attention slots and %zu MLP slots: %zu bytes; the whole arena: %zu bytes\n",
      slot_count[0], slot_count[1],
      (slot_count[0] * trainer.slot_size[0] + slot_count[1] * trainer.slot_size[1]) * sizeof(float),
      arena.used * sizeof(float));

  std::mt19937_64 random(2);
  std::vector<std::uint8_t> tokens(shape.tokens()), targets(shape.tokens());
  for (std::uint64_t step = 0; step < steps; ++step) {
    for (std::size_t b = 0; b < shape.batch; ++b) {
      const std::size_t begin = random() % (text.size() - shape.sequence);
      for (std::size_t t = 0; t < shape.sequence; ++t) {
        tokens[b * shape.sequence + t] = static_cast<std::uint8_t>(text[begin + t]);
        targets[b * shape.sequence + t] = static_cast<std::uint8_t>(text[begin + t + 1]);
      }
    }
    const float loss = trainer.forward(tokens.data(), targets.data());
    trainer.backward(tokens.data());
    trainer.update(0.003f);
    if (step % 10 == 0 || step + 1 == steps)
      std::printf("step %3d  loss %.9g\n", static_cast<int>(step), double(loss));
  }
  return 0;
}
