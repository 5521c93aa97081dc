"""The classifier and its backbones: known sizes, layers, and what does not fit."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.utils.events import EventStorage

from eql_d2.engine import load_config
from eql_d2.errors import UserError
from tests.classification.conftest import DIGITS, ready


@pytest.mark.parametrize(
    ("name", "options", "num_parameters", "shape"),
    [
        # He et al. 2016, table 6, has 0.27M, 0.46M and 0.85M with a classifier of 10 classes (650 parameters).
        ("CifarResNet", {"DEPTH": 20}, 269_722 - 650, (64, 8, 8)),
        ("CifarResNet", {"DEPTH": 32}, 464_154 - 650, (64, 8, 8)),
        ("CifarResNet", {"DEPTH": 56}, 853_018 - 650, (64, 8, 8)),
        # torchvision's documentation, without its classifier of 1000 classes.
        ("TorchvisionResNet", {"DEPTH": 18}, 11_689_512 - 513_000, (512, 1, 1)),
        ("TorchvisionResNet", {"DEPTH": 50}, 25_557_032 - 2_049_000, (2048, 1, 1)),
        ("TorchvisionResNet", {"NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4}, 25_028_904 - 2_049_000, (2048, 1, 1)),
        # By hand: stem 9,536; stages 73,984 + 230,144 + 919,040 + 3,673,088.
        ("TorchvisionResNet", {"DEPTH": 10}, 4_905_792, (512, 1, 1)),
        # 3 * 9 * 32 + 32 * 9 * 64 + 64 * 9 * 128 weights, and 2 * 224 of batch normalization.
        ("SmallConvNet", {}, 93_472, (128, 8, 8)),
    ],
)
def test_backbones(name, options, num_parameters, shape):
    cfg = load_config("")
    for key, value in options.items():
        cfg.MODEL.RESNETS[key] = value
    backbone = BACKBONE_REGISTRY.get(name)(cfg, ShapeSpec(channels=3)).eval()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == num_parameters
    (features,) = backbone(torch.zeros(2, 3, 32, 32)).values()
    assert tuple(features.shape) == (2, *shape)
    (spec,) = backbone.output_shape().values()
    assert (spec.channels, 32 // spec.stride) == shape[:2]


def test_a_shortcut_of_the_cifar_network_has_no_parameters():
    """A block whose convolutions give nothing passes every second pixel on, between channels of zeros."""
    from eql_d2.classification.backbones import CifarBlock

    block = CifarBlock(16, 32, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 16, 4, 4)
    expected = torch.zeros(1, 32, 2, 2)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return [{"image": torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8), "label": label} for label in (0, 3, 9)]


def test_scores_and_losses(digits_cfg, batch):
    torch.manual_seed(0)
    model = build_model(digits_cfg).eval()
    scores = model(batch)
    pixels = torch.stack([record["image"] for record in batch]).float()
    pixels = (pixels - digits_cfg.MODEL.PIXEL_MEAN[0]) / digits_cfg.MODEL.PIXEL_STD[0]
    features = model.backbone(pixels)["features"].mean(dim=(2, 3))
    logits = features @ model.cls_score.weight.T + model.cls_score.bias
    torch.testing.assert_close(scores, logits.softmax(dim=1))
    model.loss.train()
    model.training = True  # the backbone still uses the statistics it has
    with EventStorage():
        losses = model(batch)
    torch.testing.assert_close(losses, {"loss_cls": torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 9]))})


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_tau_normalisation(digits_cfg, batch, tau):
    """With τ = 1 a class whose weights are ten times as long has no advantage."""
    digits_cfg.TEST.TAU_NORM = tau
    model = build_model(digits_cfg).eval()
    before = model(batch)
    with torch.no_grad():
        model.cls_score.weight[3] *= 10
    order, order_before = model(batch).argsort(dim=1), before.argsort(dim=1)
    assert torch.equal(order, order_before) is bool(tau)


def test_images_of_different_sizes(digits_cfg, batch):
    batch[1]["image"] = batch[1]["image"][:, :7]
    with pytest.raises(UserError, match="A batch has images of 8x7 and of 8x8 pixels; bring all to one size"):
        build_model(digits_cfg).eval()(batch)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["MODEL.CLASSIFIER.LOSS", "eql"], "MODEL.CLASSIFIER.LOSS is 'eql'; it must be one of softmax, "),
        (["MODEL.CLASSIFIER.LAYER", "cosine"], "LAYER is 'cosine'; it must be linear, normed, scaled"),
        (["MODEL.CLASSIFIER.LOSS", "ldam"], "ldam needs cosines: set MODEL.CLASSIFIER.LAYER normed and"),
        (["MODEL.CLASSIFIER.LOSS", "seql", "MODEL.LONG_TAIL.SEQL.GAMMA", 1.5], "MODEL.LONG_TAIL.SEQL: gamma is 1.5"),
        (["MODEL.BACKBONE.NAME", "CifarResNet", "MODEL.RESNETS.DEPTH", 34], "DEPTH is 34; for CifarResNet .* 6n"),
        (["MODEL.BACKBONE.NAME", "TorchvisionResNet"], "takes images with three channels; set INPUT.FORMAT to RGB"),
    ],
)
def test_mistakes(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        build_model(ready(DIGITS, overrides))
