# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""examples/pytorch under DistributedDataParallel: two processes over gloo, compared with the mean
of gradients that one process computes. Exits with 77 where torch is missing."""

import copy
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "pytorch"))
try:
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    if not dist.is_available() or not dist.is_gloo_available():
        raise ImportError("torch was built without gloo")
except ImportError as missing:
    print(f"SKIPPED: {missing}")
    sys.exit(77)
import dropbp

WIDTH, BRANCHES, STEPS = 8, 6, 20
BRANCH_BYTES = 4 * (WIDTH * WIDTH + WIDTH)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.below = torch.nn.Linear(WIDTH, WIDTH)
        self.linears = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(BRANCHES))
        self.drops = torch.nn.ModuleList(
            dropbp.DropBP(1.0, modules=[linear]) for linear in self.linears
        )

    def forward(self, x):
        x = self.below(x)
        for linear, drop in zip(self.linears, self.drops):
            x = x + drop(lambda linear=linear, x=x: torch.tanh(linear(x)))
        return x.square().mean()


def batch(rank, number):
    generator = torch.Generator().manual_seed(100 * number + rank)
    return torch.randn(3, WIDTH, generator=generator)


def mean_gradients(net, handler, step, micro_steps):
    """Of both ranks' batches, computed here."""
    of_ranks = []
    for rank in (0, 1):
        net.zero_grad(set_to_none=True)
        for micro_step in range(micro_steps):
            handler.set_dropped_layers(step, micro_step)
            net(batch(rank, 2 * step + micro_step)).backward()
        of_ranks.append([None if p.grad is None else p.grad.clone() for p in net.parameters()])
    return [None if a is None else (a + b) / 2 for a, b in zip(*of_ranks)]


def skip_dropped(net):
    """A hook of DistributedDataParallel that sends no bucket whose branches are all dropped."""

    def hook(sent, bucket):
        dropped = {
            id(p)
            for drop in net.drops
            if drop.is_detach
            for module in drop.branch
            for p in module.parameters()
        }
        if all(id(p) in dropped for p in bucket.parameters()):
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future
        sent.append(bucket.buffer().nbytes)
        return allreduce_hook(None, bucket)

    return hook


def send_all(sent, bucket):
    sent.append(bucket.buffer().nbytes)
    return allreduce_hook(None, bucket)


def train(rank, micro_steps=1, make_hook=None, **options):
    """What went wrong in which step, and the bytes that were sent in each."""
    torch.manual_seed(1)
    net = Net()
    reference = copy.deepcopy(net)
    handler = dropbp.DropBPHandler(net, 0.5, seed=42)
    of_reference = dropbp.DropBPHandler(reference, 0.5, seed=42)
    ddp = DistributedDataParallel(net, **options)
    sent, faults, by_step = [], [], []
    if make_hook is not None:
        ddp.register_comm_hook(sent, make_hook(net))
    for step in range(STEPS):
        expected = mean_gradients(reference, of_reference, step, micro_steps)
        net.zero_grad(set_to_none=True)
        try:
            for micro_step in range(micro_steps):
                handler.set_dropped_layers(step, micro_step)
                data = batch(rank, 2 * step + micro_step)
                if micro_step + 1 < micro_steps:
                    with ddp.no_sync():
                        ddp(data).backward()
                else:
                    ddp(data).backward()
        except RuntimeError as error:
            return faults + [(step, str(error))], by_step
        for parameter, mean in zip(net.parameters(), expected):
            if (parameter.grad is None) != (mean is None):
                faults.append((step, "present" if mean is None else "absent"))
            elif mean is not None and not torch.allclose(parameter.grad, mean, rtol=1e-6):
                faults.append((step, "wrong"))
        kept = BRANCHES - sum(drop.is_detach for drop in net.drops)
        by_step.append((sum(sent), BRANCH_BYTES * (1 + kept), BRANCH_BYTES * (1 + BRANCHES)))
        sent.clear()
    return faults, by_step


def in_two_processes(**options):
    def run(rank, folder, results):
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", f"file://{folder}/ranks", rank=rank, world_size=2)
        results.put((rank, *train(rank, **options)))
        results.close()
        results.join_thread()
        os._exit(0)  # after an error the group cannot be destroyed

    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("fork")
        results = context.Queue()
        processes = [context.Process(target=run, args=(r, folder, results)) for r in (0, 1)]
        for process in processes:
            process.start()
        try:
            found = sorted(results.get(timeout=600) for _ in processes)
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    return [(faults, by_step) for _, faults, by_step in found]


class Ddp(unittest.TestCase):
    def test_unused_parameters_give_the_mean_and_send_all(self):
        options = {"find_unused_parameters": True, "make_hook": lambda net: send_all}
        for faults, by_step in in_two_processes(**options):
            self.assertEqual(faults, [])
            self.assertTrue(all(sent == everything for sent, _, everything in by_step))

    def test_a_hook_sends_only_kept_branches(self):
        one_branch = BRANCH_BYTES / 2**20  # a bucket
        options = {"find_unused_parameters": True, "bucket_cap_mb": one_branch}
        for faults, by_step in in_two_processes(make_hook=skip_dropped, **options):
            self.assertEqual(faults, [])
            self.assertEqual([sent for sent, _, _ in by_step], [kept for _, kept, _ in by_step])
            self.assertGreater(sum(a > kept for _, kept, a in by_step), STEPS // 2)

    def test_no_sync_with_a_plan_for_each_micro_step(self):
        for faults, by_step in in_two_processes(find_unused_parameters=True, micro_steps=2):
            self.assertEqual(faults, [])
            self.assertEqual(len(by_step), STEPS)

    def test_without_unused_parameters_the_second_step_throws(self):
        for faults, _ in in_two_processes():
            self.assertIn((0, "wrong"), faults)  # gradients that nobody averaged
            self.assertEqual(faults[-1][0], 1)
            self.assertIn("find_unused_parameters=True", faults[-1][1])

    def test_a_static_graph_throws_when_the_plan_changes(self):
        for faults, _ in in_two_processes(static_graph=True):
            self.assertEqual(len(faults), 1)
            self.assertIn("graph has changed", faults[0][1])


if __name__ == "__main__":
    unittest.main()
