"""Backbones of timm, with random weights: maps, frozen stages, learning rates, mistakes."""

import pytest
import torch

from eql_d2.engine import LongTailTrainer, load_config
from eql_d2.engine.optimizer import layer_factors
from eql_d2.errors import UserError
from eql_d2.modeling import TimmBackbone
from tests.conftest import ROOT

timm = pytest.importorskip("timm")
SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", SWIN])
def test_the_maps_are_those_of_timm(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps, direct = backbone(image), backbone.net(image)[-4:]
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    for place, (found, of_timm) in enumerate(zip(maps.values(), direct, strict=True)):
        stride = 4 * 2**place
        shape = backbone.output_shape()[f"res{place + 2}"]
        assert found.shape == (1, shape.channels, 64 // stride, 96 // stride) and shape.stride == stride
        assert torch.equal(found, of_timm.permute(0, 3, 1, 2) if name == SWIN else of_timm)


@pytest.mark.parametrize(
    ("name", "stem", "first"), [("resnet18", "conv1", "layer1"), ("convnext_atto", "stem_0", "stages_0")]
)
def test_stem_and_stages_freeze_from_the_bottom(name, stem, first):
    def frozen(freeze_at):
        named = TimmBackbone(name, freeze_at=freeze_at).named_parameters()
        return {key.split(".")[1] for key, parameter in named if not parameter.requires_grad}

    assert frozen(0) == set()
    assert stem in frozen(1) and first not in frozen(1)
    assert frozen(2) == frozen(1) | {first}


def test_lower_stages_learn_more_slowly(tiny_cfg):
    tiny_cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "convnext_atto"])
    tiny_cfg.merge_from_list(["SOLVER.OPTIMIZER", "AdamW", "SOLVER.LAYER_DECAY", 0.5, "SOLVER.BASE_LR", 0.01])
    model = LongTailTrainer.build_model(tiny_cfg)
    optimizer = LongTailTrainer.build_optimizer(tiny_cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(rate_of) == len(trainable)
    named = dict(model.named_parameters())
    for name, rate in (
        ("backbone.bottom_up.net.stem_0.weight", 0.01 * 0.5**5),
        ("backbone.bottom_up.net.stages_0.blocks.0.conv_dw.weight", 0.01 * 0.5**4),
        ("backbone.bottom_up.net.stages_3.blocks.0.conv_dw.weight", 0.01 * 0.5),
        ("backbone.fpn_lateral2.weight", 0.01),
        ("roi_heads.box_predictor.cls_score.weight", 0.01),
    ):
        assert rate_of[id(named[name])] == pytest.approx(rate), name


@pytest.mark.slow
def test_it_trains_and_is_evaluated(tiny_cfg):
    tiny_cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "convnext_atto"])
    tiny_cfg.merge_from_list(["SOLVER.LAYER_DECAY", 0.9, "SOLVER.BASE_LR", 0.001])
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert set(trainer._last_eval_results) == {"bbox", "segm"}


@pytest.mark.parametrize("name", ["seesaw", "eqlv2"])
@pytest.mark.parametrize("folder", ["mask_rcnn_ConvNeXt_T_FPN", "mask_rcnn_Swin_T_FPN"])
def test_the_configs_say_what_their_weights_want(folder, name):
    """The mean and deviation of timm's weights, in RGB."""
    cfg = load_config(str(ROOT / "configs" / "timm" / folder / f"{name}.yaml"))
    told = timm.get_pretrained_cfg(cfg.MODEL.TIMM.NAME)
    assert cfg.INPUT.FORMAT == "RGB"
    assert [value / 255 for value in cfg.MODEL.PIXEL_MEAN] == pytest.approx(list(told.mean), abs=1e-3)
    assert [value / 255 for value in cfg.MODEL.PIXEL_STD] == pytest.approx(list(told.std), abs=1e-3)


def test_mistakes_are_told():
    with pytest.raises(UserError, match=r"timm has no model convnext_tinny; did you mean convnext_tiny\?"):
        TimmBackbone("convnext_tinny")
    with pytest.raises(UserError, match=r"resnet18 of timm has no map res9, only res1, res2, res3, res4, res5"):
        TimmBackbone("resnet18", out_features=["res9"])
    with pytest.raises(UserError, match=r"timm cannot build resnet18 \("):
        TimmBackbone("resnet18", checkpoint_path="/nowhere/weights.pth")
    with pytest.raises(UserError, match=r"SOLVER.LAYER_DECAY is 0; it must be more than 0"):
        layer_factors(torch.nn.Linear(1, 1), 0)
