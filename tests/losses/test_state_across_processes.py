"""State collected over processes, kept in checkpoints, and kept in float32."""

import copy
import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from eql_d2.losses.distributed import sum_over_processes
from tests.losses.all_losses import COLLECTING, NAMES, K, build, method_of

# bags draws no others here, which two processes would draw differently.
LOSSES = {name: partial(build, name, **({"others_ratio": 1000} if method_of(name) == "bags" else {})) for name in NAMES}
# A switch that is set from outside is not collected.
COLLECTED = [name for name in COLLECTING if method_of(name) != "ldam"]
# RoIs of each process in each step: as many, none on the second, none on the first, no foreground on the second.
SHARES = ((6, 6), (8, 0), (0, 7), (5, 4))


def make_steps(loss):
    """For each step (logits, classes, RoIs of the first process)."""
    generator = torch.Generator().manual_seed(8)
    for step, (first, second) in enumerate(SHARES):
        logits = torch.randn(first + second, loss.num_logits, generator=generator) * 2
        gt_classes = torch.randint(0, K + loss.has_background, (first + second,), generator=generator)
        if step == len(SHARES) - 1 and loss.has_background:
            gt_classes[first:] = K
        yield logits, gt_classes, first


def train_on_shares(folder):
    """Each process trains every loss on its share and saves what it saw."""
    torch.set_num_threads(1)
    calls = []
    original = dist.all_reduce
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
        torch.save(seen_of_every_loss(calls), folder / f"{dist.get_rank()}.pth")


def seen_of_every_loss(calls):
    """What this process sees in each step; ``calls`` grows with each collective."""
    seen = {}
    for name, make in LOSSES.items():
        loss = make()
        steps = []
        for logits, gt_classes, first in make_steps(loss):
            share = slice(0, first) if dist.get_rank() == 0 else slice(first, None)
            calls.clear()
            values = loss(logits[share], gt_classes[share])
            steps.append({"losses": values, "collectives": len(calls), "state": copy.deepcopy(loss.state_dict())})
        calls.clear()
        loss.eval()(logits[share], gt_classes[share])
        seen[name] = {"steps": steps, "collectives_in_evaluation": len(calls)}
    return seen


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, two_processes):
    """What the two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    two_processes(train_on_shares, folder)
    return [torch.load(folder / f"{rank}.pth") for rank in (0, 1)]


@pytest.mark.parametrize("name", COLLECTED)
def test_two_processes_equal_one_that_saw_all(ranks, name):
    loss = LOSSES[name]()
    for step, (logits, gt_classes, first) in enumerate(make_steps(loss)):
        expected = loss(logits, gt_classes)
        seen = [rank[name]["steps"][step] for rank in ranks]
        for key, value in expected.items():
            shares = [first, len(logits) - first]
            together = sum(s["losses"][key] * share for s, share in zip(seen, shares, strict=True)) / len(logits)
            torch.testing.assert_close(together, value)
        for key, value in loss.state_dict().items():
            torch.testing.assert_close(seen[0]["state"][key], value)
            assert torch.equal(seen[0]["state"][key], seen[1]["state"][key])
    assert all(buffer.abs().sum() > 0 for buffer in loss.buffers())


@pytest.mark.parametrize("name", NAMES)
def test_one_collective_a_step_with_a_state_and_none_in_evaluation(ranks, name):
    collectives = int(name in COLLECTED)
    for rank in ranks:
        assert [step["collectives"] for step in rank[name]["steps"]] == [collectives] * len(SHARES)
        assert rank[name]["collectives_in_evaluation"] == 0


def test_without_a_process_group_the_increment_stays(monkeypatch):
    increment = torch.arange(3.0)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: pytest.fail("there is nobody to talk to"))
    assert sum_over_processes(increment) is increment
    assert increment.tolist() == [0, 1, 2]
    monkeypatch.setattr(dist, "is_available", lambda: False)  # PyTorch may be built without it
    monkeypatch.delattr(dist, "is_initialized")
    assert sum_over_processes(increment) is increment


@pytest.fixture(params=COLLECTED)
def trained(request):
    """A loss that has seen three batches."""
    loss = LOSSES[request.param]()
    for logits, gt_classes, _ in list(make_steps(loss))[:3]:
        loss(logits, gt_classes)
    return loss


def test_a_copy_has_its_own_state(trained):
    other = copy.deepcopy(trained)
    before = copy.deepcopy(trained.state_dict())
    other(*next(make_steps(trained))[:2])
    for key, value in trained.state_dict().items():
        assert torch.equal(value, before[key])
        assert not torch.equal(other.state_dict()[key], value)


def test_an_average_of_models_has_the_average_state(trained):
    """PyTorch's moving average of a model (EMA), buffers included."""
    average = torch.optim.swa_utils.AveragedModel(trained, avg_fn=lambda a, b, n: (a + b) / 2, use_buffers=True)
    states = []
    for logits, gt_classes, _ in list(make_steps(trained))[:2]:
        trained(logits, gt_classes)
        states.append(copy.deepcopy(trained.state_dict()))
        average.update_parameters(trained)
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to("cpu", torch.float16)])
def test_the_state_stays_float32_in_a_cast_model(trained, cast):
    for buffer in trained.buffers():
        buffer.mul_(1e6 + 1)  # beyond float16's range and bfloat16's digits
    model = nn.ModuleDict({"loss": trained, "layer": nn.Linear(2, 2)})
    before = copy.deepcopy(trained.state_dict())
    cast(model)
    assert model["layer"].weight.dtype != torch.float32
    for key, value in trained.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_a_double_module_collects_in_float64(trained):
    trained.double()
    loss, other = trained, copy.deepcopy(trained).float()
    logits, gt_classes, _ = next(make_steps(trained))
    loss(logits.double(), gt_classes)
    other(logits, gt_classes)
    for name, value in loss.state_dict().items():
        assert value.dtype == torch.float64
        assert other.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(other.state_dict()[name].double(), value, rtol=1e-5, atol=1e-5)


def test_the_state_moves_with_the_module(trained):
    assert all(buffer.is_meta for buffer in trained.to("meta").buffers())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_state_on_a_gpu_equals_that_on_the_cpu(trained):
    on_gpu = copy.deepcopy(trained).cuda()
    logits, gt_classes, _ = list(make_steps(trained))[3]
    values = on_gpu(logits.cuda(), gt_classes.cuda())
    for key, value in trained(logits, gt_classes).items():
        torch.testing.assert_close(values[key].cpu(), value)
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(on_gpu.state_dict()[key].cpu(), value)


def test_a_checkpoint_without_the_state_starts_afresh_with_a_warning(trained):
    fresh = copy.deepcopy(trained)
    for name, value in trained.initial_state.items():
        getattr(fresh, name).fill_(value)
    model = nn.ModuleDict({"loss": trained, "layer": nn.Linear(2, 2)})
    old = {key: value for key, value in model.state_dict().items() if key.startswith("layer.")}
    first_name = next(iter(trained.initial_state))
    with pytest.warns(UserWarning, match=rf"The checkpoint has no loss\.{first_name}.* starts to collect afresh"):
        model.load_state_dict(old)  # strict
    for key, value in fresh.state_dict().items():
        assert torch.equal(trained.state_dict()[key], value)
    # Other missing keys remain an error.
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match=r"Missing key.*layer\.bias"):
        warnings.simplefilter("ignore")
        model.load_state_dict({"layer.weight": old["layer.weight"]})


def test_a_checkpoint_without_a_part_of_the_state_starts_all_of_it_afresh(trained):
    """Sums of two runs do not fit together, nor do a ratio and the sums that it is of."""
    for absent in trained.initial_state:
        loss = copy.deepcopy(trained)
        state = {name: value for name, value in trained.state_dict().items() if name != absent}
        with pytest.warns(UserWarning, match=rf"The checkpoint has no {absent}; .* starts to collect afresh"):
            loss.load_state_dict(state)
        for name, value in trained.initial_state.items():
            assert (getattr(loss, name) == value).all(), name


def test_detectron2_s_checkpointer_keeps_the_state(trained, tmp_path):
    model = nn.ModuleDict({"loss": trained})
    DetectionCheckpointer(model, str(tmp_path)).save("new")
    restored = copy.deepcopy(model)
    for name, value in trained.initial_state.items():
        getattr(restored["loss"], name).fill_(value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DetectionCheckpointer(restored).load(str(tmp_path / "new.pth"))
    for key, value in restored.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_detectron2_s_checkpointer_starts_afresh(trained, tmp_path):
    torch.save({"model": {"layer.weight": torch.ones(2, 2), "layer.bias": torch.ones(2)}}, tmp_path / "old.pth")
    model = nn.ModuleDict({"loss": trained, "layer": nn.Linear(2, 2)})
    with pytest.warns(UserWarning, match="starts to collect afresh"):
        DetectionCheckpointer(model).load(str(tmp_path / "old.pth"))
    assert model["layer"].bias.tolist() == [1, 1]
    for name, value in trained.initial_state.items():
        assert (getattr(trained, name) == value).all()
