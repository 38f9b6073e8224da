# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""DropBP for PyTorch over the C interface of dropbp, under the published names (docs/pytorch.md):
    dropbp.apply(model)  # LLaMA-like models of transformers; or drop = DropBP(flops) a branch
    handler = dropbp.DropBPHandler(model, drop_rate=0.5, seed=42)
    handler.set_dropped_layers(step)  # in every step, before the forward pass
"""

import ctypes
import ctypes.util
import functools
import os
import pathlib

import torch


_TYPES = {"-": None, "h": ctypes.c_void_p, "z": ctypes.c_size_t, "d": ctypes.c_double}
_TYPES |= {"i": ctypes.c_int32, "q": ctypes.c_uint64, "s": ctypes.c_char_p}


class _Options(ctypes.Structure):  # dropbp_options
    _names = "struct_size drop_rate seed warmup_steps trainable_below plan_per_step"
    _names += " gradient_scaling sampling weigh kinds cap bytes groups trainable parents"
    _fields_ = [(name, _TYPES[kind]) for name, kind in zip(_names.split(), "qdqqiiiiiidhhhh")]


_TYPES["o"] = _Options
# The functions in use: name, result, arguments.
_FUNCTIONS = """
    last_error s, set_abort_on_misuse - i, default_options o, schedule_create h zhh,
    schedule_destroy - h, schedule_branch_drop_rate d hz, schedule_set_drop_rate i hd,
    schedule_set_drop_rates i hh, schedule_allocate i hhid, plan_create h, plan_destroy - h,
    plan_draw i hhqi, plan_dropped i hz, plan_fingerprint q h, running_create h z,
    running_destroy - h, running_observe i hzdd, running_end_step i h, running_sensitivities i hh,
    state_to_text z hhhqsz, state_from_text i shhhh"""


def _load():
    beside = pathlib.Path(__file__).parent / "libdropbp.so"
    path = os.environ.get("DROPBP_LIBRARY") or (str(beside) if beside.exists() else None)
    lib = ctypes.CDLL(path or ctypes.util.find_library("dropbp") or "libdropbp.so")
    for line in _FUNCTIONS.split(","):
        name, result, *arguments = line.split()
        function = getattr(lib, "dropbp_" + name)
        function.restype = _TYPES[result]
        function.argtypes = [_TYPES[letter] for letter in "".join(arguments)]
    lib.dropbp_set_abort_on_misuse(0)
    return lib


_lib = _load()


def _doubles(values):
    return (ctypes.c_double * len(values))(*values)


def _check(succeeded):
    if not succeeded:
        raise ValueError(_lib.dropbp_last_error().decode())


class DropBP(torch.nn.Module):
    """x = x + drop(lambda: branch(x)): a dropped branch runs under no_grad. drop(branch(x)), as
    published, builds a graph and frees it. `modules` of the branch: for running sensitivities."""

    def __init__(self, flops, p=0.0, modules=()):
        super().__init__()
        self.flops, self.p, self.count = flops, p, 0
        self.is_detach = False if p == 0 else None  # None: no step has begun
        self.branch = tuple(modules)  # a tuple: they stay modules of their owner alone

    def forward(self, branch):
        if not self.training or not torch.is_grad_enabled():
            return branch() if callable(branch) else branch
        if self.is_detach is None:
            raise RuntimeError("dropbp: call set_dropped_layers(step) before the forward pass")
        if not callable(branch):
            return branch.detach() if self.is_detach else branch
        with torch.set_grad_enabled(not self.is_detach):
            return branch()


class DropBPHandler:
    """Plans for the DropBP modules of a model, in the order of model.modules(). They depend on
    seed, step and rates alone: they are the same on every rank and after a resume."""

    _SAMPLING = ("bernoulli", "at_least_target", "fixed_budget")
    _ALLOCATION = ("greedy", "optimal", "uniform", "depth")

    def __init__(self, model, drop_rate=0.0, seed=0, sampling="bernoulli", plan_per_step=False):
        self.model = model
        self.layers = [module for module in model.modules() if isinstance(module, DropBP)]
        options = _lib.dropbp_default_options()
        if options.struct_size != ctypes.sizeof(_Options):
            raise ImportError("dropbp.py and libdropbp.so are of different versions")
        options.drop_rate, options.seed, options.plan_per_step = drop_rate, seed, plan_per_step
        options.sampling = self._SAMPLING.index(sampling)
        flops = _doubles([layer.flops for layer in self.layers])
        self._schedule = _lib.dropbp_schedule_create(len(flops), flops, ctypes.byref(options))
        _check(self._schedule)
        self._plan = _lib.dropbp_plan_create()
        self._running = _lib.dropbp_running_create(len(flops))
        self._next_step, self._kept = 0, [0] * len(flops)
        self._rates_changed()

    def __del__(self):
        for kind in ("schedule", "plan", "running"):
            getattr(_lib, f"dropbp_{kind}_destroy")(getattr(self, "_" + kind, None))

    def _rates_changed(self):
        for i, layer in enumerate(self.layers):
            layer.p = _lib.dropbp_schedule_branch_drop_rate(self._schedule, i)
            layer.is_detach = False if layer.p == 0 else None

    def set_initial_drop_rate(self, p):
        _check(_lib.dropbp_schedule_set_drop_rate(self._schedule, p) == 0)
        self._rates_changed()

    def set_diverse_drop_rate(self, p_list):
        if len(p_list) != len(self.layers):
            raise ValueError(f"one rate for each of {len(self.layers)} layers, not {len(p_list)}")
        _check(_lib.dropbp_schedule_set_drop_rates(self._schedule, _doubles(p_list)) == 0)
        self._rates_changed()

    def set_dropped_layers(self, step=None, micro_step=0):
        """Draws the plan of a step, by default the next one; under gradient accumulation one for
        each micro_step 0, 1, ..."""
        step = self._next_step - (micro_step > 0) if step is None else step
        _check(_lib.dropbp_plan_draw(self._plan, self._schedule, step, micro_step) == 0)
        self._next_step = step + 1
        for i, layer in enumerate(self.layers):
            layer.is_detach = bool(_lib.dropbp_plan_dropped(self._plan, i))
            layer.count += layer.is_detach
            self._kept[i] = (self._kept[i] if micro_step else 0) + (not layer.is_detach)

    def detact_non_grad(self):
        """Whether all branches are dropped: where nothing else trains, the loss has no gradient."""
        return all(layer.is_detach for layer in self.layers)

    def fingerprint(self):
        return _lib.dropbp_plan_fingerprint(self._plan)

    def extract_flops(self):
        return [layer.flops for layer in self.layers]

    def extract_count(self):
        return [layer.count for layer in self.layers]

    def compute_sensitivity(self, backprop, gradnorm=False):
        """`backprop()` clears the gradients and runs one forward and backward pass."""

        def gradients(dropped):
            for i, layer in enumerate(self.layers):
                layer.is_detach = i == dropped
            torch.manual_seed(526)
            backprop()
            grads = (p.grad for p in self.model.parameters())
            return [0 if g is None else g.norm() if gradnorm else g.clone() for g in grads]

        before = [layer.is_detach for layer in self.layers]
        try:
            with torch.random.fork_rng():
                base = gradients(None)
                return [
                    sum(float(torch.as_tensor(a - b).square().sum()) for a, b in zip(base, grads))
                    for grads in map(gradients, range(len(before)))
                ]
        finally:
            for layer, is_detach in zip(self.layers, before):
                layer.is_detach = is_detach

    def _allocate(self, sensitivities, target_probability, min_rate, allocation):
        number, given = self._ALLOCATION.index(allocation), _doubles(sensitivities)
        before = self.state_dict()
        self.set_initial_drop_rate(target_probability)
        try:
            _check(_lib.dropbp_schedule_allocate(self._schedule, given, number, min_rate) == 0)
        except ValueError:
            self.load_state_dict(before)
            raise
        self._rates_changed()
        return sensitivities, [layer.p for layer in self.layers]

    def sensitivity_based_drop_bp(
        self, backprop, target_probability=0.5, min_rate=0.0, gradnorm=False, allocation="greedy"
    ):
        sensitivities = self.compute_sensitivity(backprop, gradnorm)
        return self._allocate(sensitivities, target_probability, min_rate, allocation)

    def depth_drop_bp(self, target_probability=0.5):
        return self._allocate([1.0] * len(self.layers), target_probability, 0.0, "depth")[1]

    def observe_gradients(self):
        """After the backward pass of a step's last micro-step, before anything scales gradients."""
        for i, layer in enumerate(self.layers):
            grads = [p.grad for m in layer.branch for p in m.parameters() if p.grad is not None]
            if self._kept[i] and grads:
                square = sum(float(g.double().pow(2).sum()) for g in grads) / self._kept[i] ** 2
                _check(_lib.dropbp_running_observe(self._running, i, square, 1.0) == 0)
        _check(_lib.dropbp_running_end_step(self._running) == 0)

    def running_drop_bp(self, target_probability=0.5, min_rate=0.0, allocation="optimal"):
        """Rates from what observe_gradients() has seen: no extra passes."""
        result = _doubles([0.0] * len(self.layers))
        _check(_lib.dropbp_running_sensitivities(self._running, result) == 0)
        return self._allocate(list(result), target_probability, min_rate, allocation)

    def state_dict(self):
        handles = (self._schedule, self._running, None, self._next_step)
        text = ctypes.create_string_buffer(_lib.dropbp_state_to_text(*handles, None, 0) + 1)
        _check(_lib.dropbp_state_to_text(*handles, text, len(text)))
        return {"state": text.value.decode(), "count": self.extract_count()}

    def load_state_dict(self, state):
        step, text = ctypes.c_uint64(), state["state"].encode()
        handles = (self._schedule, self._running, None, ctypes.byref(step))
        _check(_lib.dropbp_state_from_text(text, *handles) == 0)
        self._next_step = step.value
        for layer, count in zip(self.layers, state["count"]):
            layer.count = count
        self._rates_changed()


def _dropping(drop, forward, *args, **kwargs):
    return drop(lambda: forward(*args, **kwargs))


def apply(model, sequence=512):
    """Makes the branches of each decoder layer (norm and attention, norm and MLP) droppable, in
    place, before or after get_peft_model. `sequence`: tokens, for the costs."""
    kinds = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}
    names = [*kinds, *kinds.values()]
    found = [m for m in model.modules() if all(hasattr(m, name) for name in names)]
    if not found or any(isinstance(m, DropBP) for m in model.modules()):
        raise ValueError("dropbp.apply needs a model with LLaMA-like layers, without DropBP yet")
    for layer in found:
        for name, norm in kinds.items():
            parts = getattr(layer, norm), getattr(layer, name)
            weights = [p for p in parts[1].parameters() if p.dim() == 2]
            flops = float(sum(p.numel() for p in weights))
            if name == "self_attn":  # scores and mix, of half the tokens on average
                flops += sequence * max(p.shape[0] for p in weights)
            drop = DropBP(flops, modules=parts)
            layer.add_module("dropbp_" + name, drop)
            for part in parts:  # a partial: deepcopy binds it to the copies
                part.forward = functools.partial(_dropping, drop, part.forward)
    return model
