"""Several processes on one CPU: equal to one process, also as two machines, and with clear errors."""

import subprocess
import sys

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from eql_d2.data.registration import register_custom_datasets
from eql_d2.engine import launch
from eql_d2.engine.launch import place_given_by_cluster
from eql_d2.engine.trainer import wrap_for_processes
from eql_d2.errors import UserError
from tests.conftest import ROOT
from tests.engine.places import report_places


def without_sampling(cfg):
    """Make a step free of randomness and equally large for each image, so that processes can be compared."""
    cfg.MODEL.MASK_ON = False  # its loss is divided by the foreground RoIs of the process
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = ""
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 2040  # all anchors of a 64 x 64 image
    cfg.MODEL.RPN.POSITIVE_FRACTION = 1.0
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 1000
    cfg.SOLVER.BASE_LR = 0.02


def make_batch():
    """Four images with one object each, by a formula."""
    from detectron2.structures import BitMasks, Boxes, Instances

    batch = []
    for index in range(4):
        generator = torch.Generator().manual_seed(index)
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(torch.tensor([[8.0 + index, 10.0, 40.0, 38.0 + index]]))
        instances.gt_classes = torch.tensor([index])
        instances.gt_masks = BitMasks(torch.zeros(1, 64, 64, dtype=torch.bool))
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    return batch


def train_on_share(cfg, path):
    """Three SGD steps, each process on its share of the same four images; the first process saves the weights."""
    torch.set_num_threads(1)
    register_custom_datasets(cfg)
    torch.manual_seed(0)
    model = wrap_for_processes(build_model(cfg))
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.SOLVER.BASE_LR)
    share = make_batch()[comm.get_rank() :: comm.get_world_size()]
    with EventStorage():
        for _ in range(3):
            optimizer.zero_grad()
            sum(model(share).values()).backward()
            optimizer.step()
    if comm.is_main_process():
        torch.save({name.removeprefix("module."): value for name, value in model.state_dict().items()}, path)


@pytest.mark.parametrize("heads", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_two_processes_equal_one(tiny_cfg, tmp_path, two_processes, heads):
    without_sampling(tiny_cfg)
    if heads == "LongTailCascadeROIHeads":
        tiny_cfg.MODEL.ROI_HEADS.NAME = heads
        tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    train_on_share(tiny_cfg, tmp_path / "one.pth")
    two_processes(train_on_share, tiny_cfg, tmp_path / "two.pth")
    one, two = torch.load(tmp_path / "one.pth"), torch.load(tmp_path / "two.pth")
    torch.manual_seed(0)
    initial = build_model(tiny_cfg).state_dict()
    moved = 0.0
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)
        moved = max(moved, (value - initial[name]).abs().max().item())
    assert moved > 1e-3  # otherwise equality says nothing


def test_places_of_two_machines(monkeypatch):
    """What each would start; the real thing is the slow test below, and under torchrun."""
    places = []
    module = sys.modules["eql_d2.engine.launch"]  # whose function has its name
    monkeypatch.setattr(module, "run_processes", lambda _, args, __: places.extend(a[0] for a in args))
    for machine in (0, 1):
        launch(report_places, device="cpu", num_processes_per_machine=2, num_machines=2, machine_rank=machine,
               dist_url="tcp://first:29500")  # fmt: skip
    assert [(place.rank, place.world_size, place.local_rank, place.local_size) for place in places] == [
        (0, 4, 0, 2),
        (1, 4, 1, 2),
        (2, 4, 0, 2),
        (3, 4, 1, 2),
    ]
    assert {place.url for place in places} == {"tcp://first:29500"}


@pytest.mark.slow
def test_two_machines_on_one_host(tmp_path):
    """Two launches that meet at one address are two machines of two processes each."""
    program = (
        "import sys, pathlib; from tests.launch_alone import launch; from tests.engine.places import report_places\n"
        "if __name__ == '__main__':\n"
        "    launch(report_places, device='cpu', num_processes_per_machine=2, num_machines=2,\n"
        f"           machine_rank=int(sys.argv[1]), dist_url='file://{tmp_path}/meet',\n"
        f"           args=(pathlib.Path('{tmp_path}'),))"
    )
    script = tmp_path / "machine.py"
    script.write_text(program)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    machines = [subprocess.Popen([sys.executable, script, str(rank)], env=environment) for rank in (0, 1)]
    try:
        assert [machine.wait(timeout=180) for machine in machines] == [0, 0]
    finally:
        for machine in machines:  # which takes its processes along
            machine.kill()
    assert [(tmp_path / str(rank)).read_text() for rank in range(4)] == [
        "0 4 0 2 gloo",
        "1 4 1 2 gloo",
        "2 4 0 2 gloo",
        "3 4 1 2 gloo",
    ]


def test_torchrun(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import pathlib; from tests.launch_alone import launch, leave\n"
        "from tests.engine.places import report_places\n"
        f"launch(report_places, device='cpu', args=(pathlib.Path('{tmp_path}'),)); leave()"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, timeout=180)
    assert (tmp_path / "1").read_text() == "1 2 1 2 gloo"


def test_place_under_slurm():
    environment = {
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "node07",
        "SLURM_JOB_ID": "40123",
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
    }
    place = place_given_by_cluster(environment)
    assert (place.rank, place.world_size, place.local_rank, place.local_size) == (9, 16, 1, 8)
    assert place.url == "tcp://node07:20123"
    # Steps that run at the same time in one job.
    urls = {place_given_by_cluster({**environment, "SLURM_STEP_ID": str(step)}).url for step in range(20)}
    assert len(urls) == 20
    with pytest.raises(UserError, match="Slurm runs 15 tasks on 2 nodes"):
        place_given_by_cluster({**environment, "SLURM_STEP_NUM_TASKS": "15"})
    assert place_given_by_cluster({"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_several_machines_need_an_address():
    with pytest.raises(UserError, match="--dist-url has to name the first machine"):
        launch(report_places, device="cpu", num_machines=2, args=())
