# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""examples/pytorch against the published behaviour, on a small LlamaForCausalLM, with PEFT and
without. Exits with 77 where torch, transformers or peft is missing."""

import copy
import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "pytorch"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(77)
import dropbp

torch.set_num_threads(1)
LAYERS, VOCABULARY = 3, 41
MASKS = ([0] * 6, [1] * 6, [1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1])


def tokens(seed=1):
    return torch.randint(0, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(seed))


def plain_model(peft=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    if peft:
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.0)
        model = get_peft_model(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zeros at first: the gradients of lora_A would be zeros too
                torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def published(model, mask):
    """As published: the branch runs, and what it returns is detached."""
    for index, layer in enumerate(m for m in model.modules() if hasattr(m, "self_attn")):
        for kind, part in enumerate((layer.self_attn, layer.mlp)):
            if mask[2 * index + kind]:
                part.register_forward_hook(
                    lambda module, args, out: (
                        (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()
                    )
                )
    return model


def gradients(model):
    model.zero_grad(set_to_none=True)
    loss = model(input_ids=tokens(), labels=tokens()).loss
    if loss.requires_grad:
        loss.backward()
    return loss.item(), {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def set_mask(handler, mask):
    """A step with this mask: rates of 0 and 1 draw nothing else."""
    handler.set_diverse_drop_rate(mask)
    handler.set_dropped_layers(0)


class PublishedBehaviour(unittest.TestCase):
    def check_masks(self, peft, prepare=lambda model: None):
        for mask in MASKS:
            reference = published(plain_model(peft), mask)
            model = dropbp.apply(plain_model(peft))
            prepare(reference), prepare(model)
            set_mask(dropbp.DropBPHandler(model), mask)
            (loss, grads), (other_loss, others) = gradients(model), gradients(reference)
            self.assertEqual(loss, other_loss)
            self.assertEqual(grads.keys(), others.keys())
            for name, other in others.items():
                if other is None:
                    self.assertIsNone(grads[name], (mask, name))
                else:
                    torch.testing.assert_close(grads[name], other, rtol=0, atol=0)

    def test_gradients(self):
        self.check_masks(peft=False)

    def test_gradients_of_adapters(self):
        self.check_masks(peft=True)

    def test_gradient_checkpointing(self):
        for reentrant in (False, True):

            def prepare(model, reentrant=reentrant):
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                model.enable_input_require_grads()

            self.check_masks(peft=False, prepare=prepare)
            self.check_masks(peft=True, prepare=prepare)

    def test_patched_before_peft(self):
        base = dropbp.apply(plain_model())
        lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = get_peft_model(base, lora).train()
        set_mask(dropbp.DropBPHandler(model), [1, 1, 1, 1, 0, 1])
        _, grads = gradients(model)
        with_gradient = [name for name, grad in grads.items() if grad is not None]
        self.assertTrue(with_gradient)
        self.assertTrue(all("layers.2." in name for name in with_gradient))

    def test_sensitivities(self):
        model = dropbp.apply(plain_model())
        handler = dropbp.DropBPHandler(model)
        for gradnorm in (False, True):
            measured = handler.compute_sensitivity(lambda: gradients(model), gradnorm)
            for i in range(2 * LAYERS):
                _, base = gradients(published(plain_model(), [0] * 6))
                _, other = gradients(published(plain_model(), [i == j for j in range(6)]))
                expected = 0.0
                for name, g in base.items():
                    h = torch.zeros_like(g) if other[name] is None else other[name]
                    change = g.norm() - h.norm() if gradnorm else g - h
                    expected += change.square().sum().item()
                self.assertAlmostEqual(measured[i], expected, delta=1e-5 * expected)

        def in_place():  # the gradients of the pass before are overwritten
            model.zero_grad(set_to_none=False)
            model(input_ids=tokens(), labels=tokens()).loss.backward()

        for one, other in zip(handler.compute_sensitivity(in_place, gradnorm=True), measured):
            self.assertAlmostEqual(one, other, delta=1e-5 * other)
        self.assertGreater(min(handler.compute_sensitivity(in_place)), 0.0)


class BeyondThePublished(unittest.TestCase):
    def saved_bytes(self, model):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=tokens(), labels=tokens())
        return sum(sizes)

    def test_dropped_branches_build_no_graph(self):
        model = dropbp.apply(plain_model())
        handler = dropbp.DropBPHandler(model)
        saved = {}
        for mask in ([0] * 6, [1] * 6, [1, 0] * 3, [0, 1] * 3):
            set_mask(handler, mask)
            saved[tuple(mask)] = self.saved_bytes(model)
        kept, dropped = saved[(0,) * 6], saved[(1,) * 6]
        halves = saved[(1, 0) * 3] + saved[(0, 1) * 3]
        self.assertEqual(kept + dropped, halves)  # each branch saves its own, or nothing
        self.assertLess(dropped, kept / 5)
        # The published one builds the graph of every branch.
        self.assertEqual(self.saved_bytes(published(plain_model(), [1] * 6)), kept)

    def test_plans_are_functions_of_the_step(self):
        handlers = [dropbp.DropBPHandler(dropbp.apply(plain_model()), 0.5, 7) for _ in range(2)]
        seen = []
        for step in range(20):
            handlers[0].set_dropped_layers(step)
            seen.append([layer.is_detach for layer in handlers[0].layers])
        for step in reversed(range(20)):
            handlers[1].set_dropped_layers(step)
            self.assertEqual(seen[step], [layer.is_detach for layer in handlers[1].layers])
            handlers[0].set_dropped_layers(step)
            self.assertEqual(handlers[0].fingerprint(), handlers[1].fingerprint())
        self.assertGreater(len({tuple(one) for one in seen}), 10)

    def test_without_a_number_the_next_step_is_drawn(self):
        one, other = (dropbp.DropBPHandler(dropbp.apply(plain_model()), 0.5) for _ in range(2))
        for step in range(4):
            for k in range(3):
                one.set_dropped_layers(micro_step=k)
                other.set_dropped_layers(step, k)
                self.assertEqual(one.fingerprint(), other.fingerprint())

    def test_a_resumed_run_goes_on(self):
        one = dropbp.DropBPHandler(dropbp.apply(plain_model()), 0.5, 7)
        for _ in range(5):
            one.set_dropped_layers()
        other = dropbp.DropBPHandler(dropbp.apply(plain_model()))
        other.load_state_dict(one.state_dict())
        self.assertEqual(one.extract_count(), other.extract_count())
        for _ in range(5):
            one.set_dropped_layers(), other.set_dropped_layers()
            self.assertEqual(one.fingerprint(), other.fingerprint())
        with self.assertRaisesRegex(ValueError, "line 1 of a saved dropbp state"):
            other.load_state_dict({"state": "nonsense", "count": []})

    def test_fixed_budget_keeps_the_same_number(self):
        handler = dropbp.DropBPHandler(dropbp.apply(plain_model()), 0.5, sampling="fixed_budget")
        for step in range(20):
            handler.set_dropped_layers(step)
            self.assertEqual(sum(layer.is_detach for layer in handler.layers), LAYERS)

    def test_micro_steps(self):
        for per_step in (False, True):
            model = dropbp.apply(plain_model())
            handler = dropbp.DropBPHandler(model, 0.5, plan_per_step=per_step)
            plans = set()
            for k in range(6):
                handler.set_dropped_layers(3, k)
                plans.add(tuple(layer.is_detach for layer in handler.layers))
            self.assertEqual(len(plans) == 1, per_step)

    def test_rates(self):
        model = dropbp.apply(plain_model())
        handler = dropbp.DropBPHandler(model)
        flops = handler.extract_flops()
        self.assertEqual(handler.depth_drop_bp(0.5), sorted(handler.depth_drop_bp(0.5))[::-1])
        for allocation in ("greedy", "optimal", "uniform"):
            _, rates = handler.sensitivity_based_drop_bp(
                lambda: gradients(model), 0.6, allocation=allocation
            )
            dropped = sum(r * f for r, f in zip(rates, flops)) / sum(flops)
            self.assertTrue(0.5999 < dropped < 0.67, (allocation, dropped))
        with self.assertRaisesRegex(ValueError, "GreedyAllocation"):
            handler.sensitivity_based_drop_bp(lambda: gradients(model), 0.99)
        self.assertEqual([layer.p for layer in handler.layers], rates)

    def test_running_sensitivities(self):
        model = dropbp.apply(plain_model())
        handler = dropbp.DropBPHandler(model, 0.5, seed=1)
        for _ in range(12):
            handler.set_dropped_layers()
            gradients(model)
            handler.observe_gradients()
        running, rates = handler.running_drop_bp(0.5)
        measured = handler.compute_sensitivity(lambda: gradients(model), gradnorm=True)
        # Both find the same kind of branch less sensitive, and that is dropped more often.
        least = [sorted(range(6), key=list_.__getitem__)[:3] for list_ in (running, measured)]
        self.assertEqual({i % 2 for i in least[0]}, {i % 2 for i in least[1]})
        others = set(range(6)) - set(least[0])
        self.assertGreater(min(rates[i] for i in least[0]), max(rates[i] for i in others))

    def test_the_optimizer_leaves_dropped_branches_alone(self):
        model = dropbp.apply(plain_model())
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
        handler = dropbp.DropBPHandler(model)
        for mask in (MASKS[0], MASKS[2]):  # moments of all first
            set_mask(handler, mask)
            before = copy.deepcopy(model.state_dict())
            gradients(model)
            optimizer.step()
        for name, value in model.state_dict().items():
            if "layers." in name:
                layer = int(name.split("layers.")[1].split(".")[0])
                kind = "mlp" in name or "post_attention" in name
                same = torch.equal(value, before[name])
                self.assertEqual(same, bool(MASKS[2][2 * layer + kind]), name)

    def test_an_own_model(self):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.branch, self.drop = torch.nn.Linear(4, 4), dropbp.DropBP(1.0)

            def forward(self, x, as_published):
                h = self.drop(self.branch(x)) if as_published else self.drop(lambda: self.branch(x))
                return x + h

        for as_published in (False, True):
            net = Net()
            handler = dropbp.DropBPHandler(net)
            handler.set_initial_drop_rate(1.0)
            x = torch.ones(2, 4, requires_grad=True)
            with self.assertRaisesRegex(RuntimeError, "set_dropped_layers"):
                net(x, as_published)
            handler.set_dropped_layers()
            self.assertTrue(handler.detact_non_grad())
            net(x, as_published).sum().backward()
            self.assertIsNone(net.branch.weight.grad)
            torch.testing.assert_close(x.grad, torch.ones(2, 4))
            net.eval()
            self.assertTrue(net(x, as_published).requires_grad)  # complete outside of training

    def test_wrong_use(self):
        model = dropbp.apply(plain_model())
        for wrong, sentence in (
            (lambda: dropbp.apply(model), "without DropBP yet"),
            (lambda: dropbp.apply(torch.nn.Linear(1, 1)), "LLaMA-like"),
            (lambda: dropbp.DropBPHandler(torch.nn.Linear(1, 1)), "at least one residual branch"),
            (lambda: dropbp.DropBPHandler(model, 1.5), r"\[0, 1\]"),
            (lambda: dropbp.DropBPHandler(model).set_diverse_drop_rate([0.5]), "not 1"),
            (lambda: dropbp.DropBPHandler(model, sampling="other"), "not in tuple"),
        ):
            with self.assertRaisesRegex(ValueError, sentence):
                wrong()

    def test_a_copy_is_on_its_own(self):
        model = dropbp.apply(plain_model())
        other = copy.deepcopy(model)
        set_mask(dropbp.DropBPHandler(model), [1] * 6)
        handler = dropbp.DropBPHandler(other)
        set_mask(handler, [0] * 6)
        other.load_state_dict({k: v + 0.01 for k, v in model.state_dict().items()})
        _, grads = gradients(other)
        self.assertTrue(all(grad is not None for grad in grads.values()))
        _, grads = gradients(model)
        self.assertTrue(all(g is None for name, g in grads.items() if "layers." in name))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
