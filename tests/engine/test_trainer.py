"""What the trainer adds to Detectron2's, piece by piece."""

from types import SimpleNamespace

import torch
from detectron2.utils import comm

from eql_d2.engine.trainer import SeedEachStep


def test_what_is_random_in_a_step_follows_from_seed_iteration_and_process(monkeypatch):
    def drawn(seed, iteration, rank=0):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        hook = SeedEachStep()
        hook.trainer = SimpleNamespace(seed=seed, iter=iteration)
        hook.before_step()
        return torch.rand(3).tolist()

    first = drawn(3, 7)
    torch.rand(5)  # whatever went before
    assert drawn(3, 7) == first
    others = [drawn(4, 7), drawn(3, 8), drawn(3, 0), drawn(3, 7, rank=1)]
    assert len({tuple(values) for values in (first, *others)}) == 5
