"""What the trainer adds to Detectron2's, piece by piece."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm

from eql_d2.engine.trainer import LongTailTrainer, SeedEachStep
from eql_d2.errors import UserError


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


@pytest.mark.parametrize("steps", [(4,), (2, 4), (3, 2), (2, 2), (0, 2)])
def test_steps_outside_of_the_run_or_out_of_order_are_told(tiny_cfg, steps):
    tiny_cfg.SOLVER.STEPS, tiny_cfg.SOLVER.MAX_ITER = steps, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    with pytest.raises(UserError) as error:
        LongTailTrainer.build_lr_scheduler(tiny_cfg, optimizer)
    sentence = str(error.value)
    assert sentence.startswith(
        f"SOLVER.STEPS {steps} with SOLVER.MAX_ITER 4 and SOLVER.LR_SCHEDULER_NAME WarmupMultiStepLR"
    )
    assert sentence.endswith("each step must be less than MAX_ITER and more than the one before.")
    assert "\n" not in sentence
