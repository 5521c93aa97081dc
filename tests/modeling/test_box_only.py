"""Objects without masks: the mask head trains on the others alone, and boxes on all."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from eql_d2.data.training.image_targets import ImageTargets
from tests.modeling.test_rpn import make_cascade

SIZE = (64, 64)
HEADS = {
    "plain": {},
    "class-agnostic": {"CLS_AGNOSTIC_MASK": True},
    "class-specific": {"CLS_AGNOSTIC_MASK": False},
    "normed": {"CLS_AGNOSTIC_MASK": False, "NAME": "NormedMaskRCNNConvUpsampleHead"},
}
heads_of_all_kinds = pytest.mark.parametrize("kind", HEADS)
both_heads = pytest.mark.parametrize("cascade", [False, True])


def build(cfg, kind, cascade):
    for key, value in HEADS[kind].items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    if cascade:
        make_cascade(cfg)
    torch.manual_seed(0)
    return build_model(cfg)


def rois(classes, has_mask=None, seed=0):
    """Labelled RoIs of an image, each with a random box and mask."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(len(classes), 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 10 + torch.rand(len(classes), 2, generator=generator) * 20], dim=1)
    instances = Instances(SIZE)
    instances.proposal_boxes = Boxes(boxes)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.tensor(classes)
    instances.gt_masks = BitMasks(torch.rand(len(classes), *SIZE, generator=generator) > 0.5)
    if has_mask is not None:
        instances.gt_has_mask = torch.tensor(has_mask)
    return instances


def mask_loss(model, features, instances):
    with EventStorage():
        return model.roi_heads._forward_mask(features, instances)["loss_mask"]


@heads_of_all_kinds
@both_heads
def test_the_mask_loss_is_of_those_with_masks(tiny_cfg, kind, cascade):
    """Class 6 is background. Three images: mixed, boxes only, and masks only (which says nothing of it)."""
    model = build(tiny_cfg, kind, cascade)
    features = {"p2": torch.randn(3, 64, 16, 16, generator=torch.Generator().manual_seed(1))}
    instances = [
        rois([1, 6, 3, 0], [True, True, False, True], 0),
        rois([2, 2, 6], [False, False, False], 1),
        rois([4, 6], None, 2),
    ]
    kept = [rois([1, 6, 3, 0], None, 0)[torch.tensor([0, 3])], rois([2, 2, 6], None, 1)[:0], rois([4, 6], None, 2)[:1]]
    with EventStorage():
        pooled = model.roi_heads.mask_pooler([features["p2"]], [p.proposal_boxes for p in kept])
        expected = 0.0
        logits = model.roi_heads.mask_head.layers(pooled).double()
        row = 0
        for image in kept:
            side = logits.shape[-1]
            targets = image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, side) if len(image) else []
            for target, index in zip(targets, image.gt_classes.tolist(), strict=True):
                z = logits[row, 0 if logits.shape[1] == 1 else index]
                expected += torch.where(target, (1 + (-z).exp()).log(), (1 + z.exp()).log()).mean().item()
                row += 1
        assert row == 3
    loss = mask_loss(model, features, instances)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)
    assert [len(p) for p in instances] == [4, 3, 2]  # the box head's are left alone


def batch_of(*has_masks):
    """Images with two objects each."""
    batch = []
    for index, has_mask in enumerate(has_masks):
        generator = torch.Generator().manual_seed(index)
        targets = rois([index, index + 1], has_mask, index)
        targets.remove("proposal_boxes")
        image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": targets})
    return batch


@heads_of_all_kinds
@both_heads
def test_a_batch_without_masks_gives_the_mask_head_zeros(tiny_cfg, kind, cascade):
    model = build(tiny_cfg, kind, cascade)
    with EventStorage():
        losses = model(batch_of([False, False], [False, False]))
    assert losses["loss_mask"] == 0
    sum(losses.values()).backward()
    for name, parameter in model.roi_heads.mask_head.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    stages = model.roi_heads.box_predictor if cascade else [model.roi_heads.box_predictor]
    assert all(stage.bbox_pred.weight.grad.any() for stage in stages)


@both_heads
def test_boxes_train_whatever_the_masks(tiny_cfg, cascade):
    """The losses of boxes and classes do not depend on which objects have masks."""
    model = build(tiny_cfg, "plain", cascade)
    results = []
    for has_masks in ((None, None), ([True, False], [False, False]), ([False, False], None)):
        torch.manual_seed(5)  # of the sampling
        with EventStorage():
            results.append(model(batch_of(*has_masks)))
    for losses in results[1:]:
        assert losses["loss_mask"] != results[0]["loss_mask"]
        for name in losses.keys() - {"loss_mask"}:
            assert torch.equal(losses[name], results[0][name]), name


def test_masks_with_labels_of_the_image(tiny_cfg):
    """RoIs that carry image-level labels lose those without a mask like others."""
    model = build(tiny_cfg, "plain", False)
    features = {"p2": torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(1))}
    plain = rois([1, 6, 3], [True, True, False])
    labelled = ImageTargets(SIZE, verified_classes=torch.tensor([1]), **plain.get_fields())
    assert torch.equal(mask_loss(model, features, [labelled]), mask_loss(model, features, [plain]))
