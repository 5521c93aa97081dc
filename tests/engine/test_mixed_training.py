"""Training on data that is not labelled alike everywhere: LVIS's image-level labels, regions, boxes without masks."""

import itertools
import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from eql_d2.data.registration import register_custom_datasets, set_class_metadata
from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.engine import LongTailTrainer
from eql_d2.engine.trainer import wrap_for_processes
from tests.modeling.test_rpn import make_cascade


@pytest.fixture
def mixed_cfg(tiny_set, tiny_cfg, tmp_path):
    """Two training sets. In the first, every third image is without masks, in the others every second object is,
    every fifth annotation is a crowd, and there are regions of a second file; the second is of boxes, in COCO's format.
    """
    content = json.loads((tiny_set / "train.json").read_text())
    for index, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] % 3 == 0 or index % 2:
            del annotation["segmentation"]
        if index % 5 == 0:
            annotation["iscrowd"] = 1
    (tmp_path / "mixed.json").write_text(json.dumps(content))
    for index, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = [5 + index % 20, 3, 30, 20 + index % 30]
    (tmp_path / "regions.json").write_text(json.dumps(content))
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    names = ("mixed_train", "mixed_boxes")
    tiny_cfg.DATASETS.CUSTOM = [
        {
            "name": names[0],
            "annotations": str(tmp_path / "mixed.json"),
            "images": str(tiny_set),
            "ignore_regions": str(tmp_path / "regions.json"),
        },
        {"name": names[1], "annotations": str(tmp_path / "boxes.json"), "images": str(tiny_set), "format": "coco"},
    ]
    register_custom_datasets(tiny_cfg)
    for name in names:
        set_class_metadata(name)
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = names, ()
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    tiny_cfg.SOLVER.IMS_PER_BATCH = 4
    yield tiny_cfg
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("cascade", [False, True])
def test_a_few_steps(mixed_cfg, cascade):
    if cascade:
        make_cascade(mixed_cfg)
    trainer = LongTailTrainer(mixed_cfg)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    kinds = set()
    for sample in itertools.chain(*itertools.islice(iter(trainer.data_loader), 4)):
        instances = sample["instances"]
        assert instances.verified_classes is not None
        kinds.add("regions" if instances.ignore_regions is not None else "no regions")
        has_mask = instances.gt_has_mask if instances.has("gt_has_mask") else torch.ones(len(instances))
        kinds.add("masks" if has_mask.all() else "mixed" if has_mask.any() else "boxes")
    assert kinds == {"regions", "no regions", "mixed", "boxes", "masks"}
    trainer.train()
    losses = {name: value for name, (value, _) in trainer.storage.latest().items() if name.startswith("loss")}
    assert {"loss_mask", "loss_cls_stage2" if cascade else "loss_cls"} <= set(losses)
    for name, parameter in trainer.model.named_parameters():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]) or not parameter.requires_grad, name


def batch_with(masks):
    """Two images with an object and a region each; those without masks are boxes only."""
    batch = []
    for index in range(2):
        generator = torch.Generator().manual_seed(index)
        targets = ImageTargets(
            (64, 64),
            verified_classes=torch.tensor([index, 4]),
            ignore_regions=Boxes(torch.tensor([[0.0, 40, 64, 64]])),
            gt_boxes=Boxes(torch.tensor([[8.0 + index, 10.0, 40.0, 38.0 + index]])),
            gt_classes=torch.tensor([index]),
            gt_masks=BitMasks(torch.ones(1, 64, 64, dtype=torch.bool)),
            gt_has_mask=torch.tensor([masks]),
        )
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": targets})
    return batch


def train_apart(cfg, folder):
    """Three steps; the second process has no mask, and in one step nobody has."""
    torch.set_num_threads(1)
    register_custom_datasets(cfg)
    torch.manual_seed(0)
    model = wrap_for_processes(build_model(cfg))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    gradients = []
    with EventStorage():
        for step in range(3):
            torch.manual_seed(step)
            optimizer.zero_grad()
            sum(model(batch_with(comm.get_rank() == 0 and step != 1)).values()).backward()
            gradients.append(
                {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if "mask" in name}
            )
            optimizer.step()
    state = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    torch.save({"state": state, "gradients": gradients}, folder / f"{comm.get_rank()}.pth")


@pytest.mark.parametrize("cascade", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_of_which_one_has_no_masks(tiny_cfg, tmp_path, two_processes, cascade):
    """A process waits for the gradients of all parameters of the other."""
    if cascade:
        make_cascade(tiny_cfg)
    tiny_cfg.MODEL.RESNETS.NORM = tiny_cfg.MODEL.FPN.NORM = ""  # its statistics are those of each process
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    two_processes(train_apart, tiny_cfg, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    for name, value in first["state"].items():
        torch.testing.assert_close(second["state"][name], value, msg=name)
    # Alone, the first process has twice the gradient of the mask head that both share.
    train_apart(tiny_cfg, tmp_path)
    alone = torch.load(tmp_path / "0.pth")["gradients"]
    for name, gradient in alone[0].items():
        torch.testing.assert_close(2 * first["gradients"][0][name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    assert any(gradient.any() for gradient in alone[0].values())
    assert not any(gradient.any() for gradient in first["gradients"][1].values())
