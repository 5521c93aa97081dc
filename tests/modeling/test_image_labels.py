"""Image-level labels on their way from the training data to the loss."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.data.training.loader import build_train_loader
from eql_d2.errors import UserError
from eql_d2.losses import EqualizationLoss
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY
from eql_d2.modeling.gradient_sums import GradientSums
from tests.modeling.test_rpn import make_cascade

TAKERS = {"EQLPredictor"}


def rois(count, classes):
    return ImageTargets(
        (64, 64), verified_classes=torch.tensor(classes, dtype=torch.int64), gt_classes=torch.zeros(count)
    )


def weights_by_loop(loss, gt_classes, verified):
    """Of EQL, equations 3 to 5, with 1 for what is verified (section 4.2); in a double loop."""
    weights = torch.ones(len(gt_classes), loss.num_classes, dtype=torch.float64)
    for i, y in enumerate(gt_classes.tolist()):
        for j in range(loss.num_classes):
            foreground = y != loss.num_classes
            if foreground and j != y and loss.tail_weight[j] and not verified[i][j]:
                weights[i, j] = 0
    return weights


def loss_by_loop(logits, gt_classes, weights):
    total = 0.0
    for z_row, y, w_row in zip(logits.double().tolist(), gt_classes.tolist(), weights.tolist(), strict=True):
        for j, (z, w) in enumerate(zip(z_row, w_row, strict=True)):
            total += w * math.log1p(math.exp(-z if j == y else z))
    return total / max(len(gt_classes), 1)


def test_a_roi_has_the_labels_of_its_image(tiny_cfg):
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    predictor = build_model(tiny_cfg).roi_heads.box_predictor
    images = [([0, 3], 2), ([5], 0), ([], 1), ([1], 3)]
    table = predictor.verified_classes([rois(count, classes) for classes, count in images])
    expected = [[j in classes for j in range(6)] for classes, count in images for _ in range(count)]
    assert table.tolist() == expected
    assert table.dtype == torch.bool
    assert predictor.verified_classes([rois(0, [1]), rois(0, [])]).shape == (0, 6)


@pytest.mark.parametrize("cascade", [False, True])
def test_the_loss_of_a_whole_model(tiny_cfg, cascade):
    """Each stage's loss is the formula's on the logits of that stage, with the labels of the dataset's images; and
    the gradients that are watched are those of this loss."""
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    tiny_cfg.MODEL.LONG_TAIL.EQL.LAMBDA = 1.0  # all classes are tail
    tiny_cfg.INPUT.CROP.ENABLED = False
    if cascade:
        make_cascade(tiny_cfg)
    torch.manual_seed(0)
    model = build_model(tiny_cfg)
    heads = model.roi_heads
    predictors = list(heads.box_predictor) if cascade else [heads.box_predictor]
    batch = next(iter(build_train_loader(tiny_cfg, seed=3)))
    seen = []
    for predictor in predictors:
        predictor.gradient_sums = GradientSums(predictor.loss.class_columns)
        predictor.loss.register_forward_hook(
            lambda _, inputs, kwargs, output, seen=seen: seen.append((*inputs, kwargs, output)), with_kwargs=True
        )
    counts = []
    plain_losses = [predictor.losses for predictor in predictors]
    for predictor, plain in zip(predictors, plain_losses, strict=True):
        predictor.losses = lambda predictions, proposals, plain=plain: (
            counts.append([len(p) for p in proposals]) or plain(predictions, proposals)
        )
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    labels = [set(item["instances"].gt_classes.tolist()) | set(item["neg_category_ids"]) for item in batch]
    assert any(item["neg_category_ids"] for item in batch)
    for predictor, (logits, gt_classes, _, output), of_image in zip(predictors, seen, counts, strict=True):
        verified = [[j in known for j in range(6)] for known, n in zip(labels, of_image, strict=True) for _ in range(n)]
        weights = weights_by_loop(predictor.loss, gt_classes, verified)
        assert output["loss_cls"].item() == pytest.approx(loss_by_loop(logits.detach(), gt_classes, weights), rel=1e-5)
        unlabelled = weights_by_loop(predictor.loss, gt_classes, [[False] * 6] * len(gt_classes))
        assert weights.sum() > unlabelled.sum()  # otherwise the labels decide nothing here
        own = torch.nn.functional.one_hot(gt_classes, 7)[:, :6].double()
        gradients = ((logits.detach().double().sigmoid() - own) * weights).abs()
        positive, negative = predictor.gradient_sums.take_recent()
        torch.testing.assert_close(positive.double(), (gradients * own).sum(dim=0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(negative.double(), (gradients * (1 - own)).sum(dim=0), rtol=1e-4, atol=1e-6)


def test_without_the_key_nothing_is_carried(tiny_cfg):
    sample = next(iter(build_train_loader(tiny_cfg, seed=3)))[0]
    assert type(sample["instances"]) is Instances


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_mixed_precision_and_device(tiny_cfg, device):
    """A step under autocast gives the loss of its own logits."""
    tiny_cfg.MODEL.DEVICE = device
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    torch.manual_seed(0)
    model = build_model(tiny_cfg)
    seen = []
    model.roi_heads.box_predictor.loss.register_forward_hook(
        lambda _, inputs, kwargs, output: seen.append((*inputs, kwargs["verified_classes"], output)), with_kwargs=True
    )
    with EventStorage(), torch.autocast(device, dtype=torch.bfloat16):
        losses = model(next(iter(build_train_loader(tiny_cfg, seed=3))))
    sum(losses.values()).backward()
    logits, gt_classes, verified, output = seen[0]
    assert verified.device.type == device
    weights = weights_by_loop(model.roi_heads.box_predictor.loss, gt_classes, verified.tolist())
    expected = loss_by_loop(logits.detach().float().cpu(), gt_classes, weights)
    assert output["loss_cls"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("predictor", [name for name, _ in BOX_PREDICTOR_REGISTRY])
def test_losses_without_use_for_labels_say_so(tiny_cfg, predictor):
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = predictor
    if predictor in TAKERS:
        assert isinstance(build_model(tiny_cfg).roi_heads.box_predictor.loss, EqualizationLoss)
    else:
        with pytest.raises(UserError, match=r"IMAGE_LEVEL_LABELS is True, but [A-Z][A-Za-z0-9]+ has no use for them"):
            build_model(tiny_cfg)


def test_data_without_labels_is_named(tiny_cfg):
    batch = next(iter(build_train_loader(tiny_cfg, seed=3)))
    tiny_cfg.MODEL.LONG_TAIL.IMAGE_LEVEL_LABELS = True
    model = build_model(tiny_cfg)
    with EventStorage(), pytest.raises(UserError, match="training data comes without them; use LongTailMapper"):
        model(batch)
