"""Conversion: outputs equal those of the source's layout, and every tensor is accounted for."""

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from eql_d2.conversion import convert, prove, save
from eql_d2.conversion.imagenet_weights import check_imagenet_weights, describe_checksum
from eql_d2.engine import load_config
from eql_d2.engine.checkpoint import AtomicCheckpointer
from eql_d2.engine.description import read_description
from eql_d2.errors import UserError
from eql_d2.prediction.predictor import Predictor
from tests.conversion.synthetic import K, mmdet, resnet, write

CASCADE = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
BINS = ["MODEL.LONG_TAIL.BAGS.BIN_EDGES", (60, 200)]


def with_state(tensors, **state):
    return tensors | {f"roi_head.bbox_head.loss_cls.{name}": value for name, value in state.items()}


def with_scales(tensors):
    return tensors | {"roi_head.bbox_head.fc_cls.weight_scaler": torch.rand(K + 1, 1) - 0.3}


NORMED = ["MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", True]
NORMED_MASK = ["MODEL.ROI_MASK_HEAD.NAME", "NormedMaskRCNNConvUpsampleHead"]
MODELS = {
    "mmdet softmax": ("mmdet", "Softmax", [], lambda: mmdet(K + 1)),
    "mmdet bottleneck": (
        "mmdet",
        "Softmax",
        ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256],
        lambda: mmdet(K + 1, depth=50),
    ),
    "mmdet seesaw": ("mmdet", "Seesaw", NORMED, lambda: with_state(mmdet(K + 2), cum_samples=torch.arange(K + 1.0))),
    "mmdet seesaw normed mask": ("mmdet", "Seesaw", NORMED + NORMED_MASK, lambda: mmdet(K + 2)),
    "mmdet seesaw cascade": (
        "mmdet",
        "Seesaw",
        NORMED + NORMED_MASK + CASCADE,
        lambda: mmdet(K + 2, stages=3, agnostic=True),
    ),
    "mmdet eql": ("mmdet", "EQL", [], lambda: mmdet(K)),
    "eqlv2": (
        "eqlv2",
        "EQLv2",
        [],
        lambda: with_state(mmdet(K + 1), pos_grad=torch.rand(K), neg_grad=torch.rand(K), pos_neg=torch.rand(K)),
    ),
    "eqlv2 bags": ("eqlv2", "BAGS", BINS, lambda: mmdet(K + 5)),
    "eqlv2 lws": (
        "eqlv2",
        "Softmax",
        ["MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER", True],
        lambda: with_scales(mmdet(K + 1)),
    ),
    "bags softmax": ("bags", "Softmax", [], lambda: mmdet(K + 1, first=True)),
    "bags": ("bags", "BAGS", BINS, lambda: mmdet(K + 5, first=True)),
    "bags faster": ("bags", "BAGS", [*BINS, "MODEL.MASK_ON", False], lambda: mmdet(K + 5, first=True, masks=False)),
    "bags cascade": ("bags", "Softmax", CASCADE, lambda: mmdet(K + 1, first=True, stages=3, agnostic=True)),
}


SLOW = {"mmdet bottleneck", "bags faster"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS])
def test_outputs_equal_those_of_the_source(name, config, tmp_path):
    source, predictor, overrides, build = MODELS[name]
    torch.manual_seed(1)
    conversion, file = convert(source, write(tmp_path, build()), config(predictor, *overrides))
    differences = prove(conversion, file, source)
    assert max(differences.values()) < 1e-5
    assert {"pixels", "p6", "RPN deltas of p2", "scores"} <= set(differences)
    assert ("masks" in differences) == conversion.cfg.MODEL.MASK_ON
    assert all("num_batches_tracked" in left for left in conversion.not_needed)
    assert len(conversion.used) + len(conversion.not_needed) == len(file.tensors)
    assert all(".loss." in absent for absent in conversion.not_found)


def test_background_goes_from_first_to_last(config, tmp_path):
    tensors = mmdet(K + 1, first=True)
    tensors["bbox_head.fc_cls.bias"] = torch.arange(K + 1.0)
    tensors["bbox_head.fc_reg.bias"] = torch.arange(4.0 * (K + 1))
    tensors["mask_head.conv_logits.bias"] = torch.arange(K + 1.0)
    heads = convert("bags", write(tmp_path, tensors), config("Softmax"))[0].model.roi_heads
    assert heads.box_predictor.cls_score.bias.tolist() == [1, 2, 3, 4, 5, 6, 0]
    assert heads.box_predictor.bbox_pred.bias.tolist() == list(range(4, 28))
    assert heads.mask_head.predictor.bias.tolist() == [1, 2, 3, 4, 5, 6]


def test_bags_groups_go_before_foreground_and_background(config, tmp_path):
    tensors = mmdet(K + 5, first=True)
    tensors["bbox_head.fc_cls.bias"] = torch.arange(11.0)  # background, foreground, others, a class, …
    model = convert("bags", write(tmp_path, tensors), config("BAGS", *BINS))[0].model
    assert model.roi_heads.box_predictor.cls_score.bias.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 0]


def test_deltas_of_the_last_stage_change_units(config, tmp_path):
    tensors = mmdet(K + 1, stages=3, agnostic=True)
    for stage in range(3):
        tensors[f"roi_head.bbox_head.{stage}.fc_reg.bias"] = torch.ones(4)
    predictors = convert("mmdet", write(tmp_path, tensors), config("Softmax", *CASCADE))[
        0
    ].model.roi_heads.box_predictor
    assert predictors[0].bbox_pred.bias.tolist() == predictors[1].bbox_pred.bias.tolist() == [1, 1, 1, 1]
    # mmdetection multiplies by 0.033 and 0.067, Detectron2 divides by 30 and 15.
    assert predictors[2].bbox_pred.bias.tolist() == pytest.approx([0.99, 0.99, 1.005, 1.005], rel=1e-6)


def test_learned_scales_go_into_the_weights(config, tmp_path):
    tensors = mmdet(K + 1)
    tensors["roi_head.bbox_head.fc_cls.weight_scaler"] = scale = torch.tensor([[0.0], [1], [2], [3], [4], [5], [6]])
    cfg = config("Softmax", "MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER", True)
    layer = convert("eqlv2", write(tmp_path, tensors), cfg)[0].model.roi_heads.box_predictor.cls_score
    assert torch.equal(layer.weight, tensors["roi_head.bbox_head.fc_cls.weight"] * scale)
    assert torch.equal(layer.scale, torch.ones(K + 1))


def test_loss_state_is_kept_without_background(config, tmp_path):
    tensors = with_state(mmdet(K + 2), cum_samples=torch.arange(K + 1.0))
    conversion, _ = convert("mmdet", write(tmp_path, tensors), config("Seesaw"))
    assert conversion.model.roi_heads.box_predictor.loss.cum_samples.tolist() == [0, 1, 2, 3, 4, 5]
    assert not conversion.not_found


def test_absent_loss_state_is_told(config, tmp_path):
    conversion, _ = convert("eqlv2", write(tmp_path, mmdet(K + 1)), config("EQLv2"))
    assert sorted(name.rpartition(".")[2] for name in conversion.not_found) == ["neg_grad", "pos_grad", "pos_neg_ratio"]
    assert set(conversion.not_found.values()) == {
        "the loss's state, which evaluation does not use; training on would start it afresh"
    }


def test_config_is_put_right(config, tmp_path):
    assert config("Softmax").INPUT.FORMAT == "BGR"
    conversion, _ = convert("mmdet", write(tmp_path, mmdet(K + 1)), config("Softmax"))
    assert conversion.cfg.INPUT.FORMAT == "RGB"
    assert list(conversion.cfg.MODEL.PIXEL_MEAN) == [123.675, 116.28, 103.53]
    assert not conversion.cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert [change.split(":")[0] for change in conversion.changes] == [
        "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1"
    ]  # fmt: skip


def test_recorded_config_counts_more_than_the_published_one(config, tmp_path):
    recorded = """
model = dict(backbone=dict(type='ResNet', style='caffe'), roi_head=dict(bbox_head=dict(
    bbox_coder=dict(target_stds=[0.2, 0.2, 0.4, 0.4]), loss_cls=dict(type='CrossEntropyLoss'))))
img_norm_cfg = dict(mean=[103.5, 116, 123], std=[1.0, 1.0, 1.0], to_rgb=False)
test_pipeline = [dict(type='Normalize', **img_norm_cfg)]
"""
    tensors = mmdet(K + 1)
    conversion, file = convert("mmdet", write(tmp_path, tensors, config=recorded), config("Softmax"))
    assert conversion.cfg.INPUT.FORMAT == "BGR" and conversion.cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert list(conversion.cfg.MODEL.PIXEL_MEAN) == [103.5, 116.0, 123.0]
    bias = conversion.model.roi_heads.box_predictor.bbox_pred.bias
    assert torch.allclose(bias, 2 * tensors["roi_head.bbox_head.fc_reg.bias"])
    assert max(prove(conversion, file, "mmdet").values()) < 1e-5


SPOILS = {
    "scores": lambda c: c.model.roi_heads.box_predictor.cls_score.bias.data.copy_(
        c.model.roi_heads.box_predictor.cls_score.bias.data.roll(1)
    ),
    "box deltas": lambda c: c.model.roi_heads.box_predictor.bbox_pred.weight.data.mul_(1.001),
    "pixels": lambda c: c.cfg.merge_from_list(["INPUT.FORMAT", "BGR"]),
    "RPN objectness of p2": lambda c: c.model.proposal_generator.rpn_head.objectness_logits.bias.data.add_(0.001),
    "masks": lambda c: c.model.roi_heads.mask_head.predictor.weight.data.copy_(
        c.model.roi_heads.mask_head.predictor.weight.data.flip(0)
    ),
    "p2": lambda c: (
        setattr(c.model.backbone.bottom_up.res3[0].conv1, "stride", (1, 1))
        or setattr(c.model.backbone.bottom_up.res3[0].conv2, "stride", (2, 2))
    ),
    "pooled features": lambda c: setattr(c.model.roi_heads.box_pooler.level_poolers[0], "aligned", False),
}


@pytest.mark.parametrize("output", SPOILS)
def test_the_proof_sees_what_is_wrong(output, config, tmp_path):
    torch.manual_seed(1)
    conversion, file = convert("mmdet", write(tmp_path, mmdet(K + 1)), config("Softmax"))
    SPOILS[output](conversion)
    with pytest.raises(UserError, match=rf"does not compute what .*{output}"):
        prove(conversion, file, "mmdet")


def test_eql_keeps_names_and_brings_its_pixel_means(config, tmp_path):
    torch.manual_seed(1)
    cfg = config("EQL")
    tensors = build_model(cfg).state_dict()
    for name, value in tensors.items():
        value.copy_(torch.rand_like(value) * (0.05 if value.dim() > 1 else 0.5) + (0.5 if "norm" in name else 0))
    sizes = [32, 64, 128, 256, 512]
    boxes = [[[-a, -b, a, b] for a, b in ((s / 2 * r**-0.5, s / 2 * r**0.5) for r in (0.5, 1, 2))] for s in sizes]
    extra = {f"proposal_generator.anchor_generator.cell_anchors.{i}": torch.tensor(b) for i, b in enumerate(boxes)}
    extra |= {"pixel_mean": torch.tensor([103.0, 116.0, 124.0]).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    path = tmp_path / "model_final.pth"
    torch.save({"model": tensors | extra, "iteration": 89999, "optimizer": {"state": {}}}, path)
    conversion, file = convert("eql", path, cfg)
    assert list(conversion.cfg.MODEL.PIXEL_MEAN) == [103.0, 116.0, 124.0]
    assert len(conversion.not_needed) == 7
    assert max(prove(conversion, file, "eql").values()) < 1e-5
    extra["proposal_generator.anchor_generator.cell_anchors.2"] *= 2
    torch.save({"model": tensors | extra}, path)
    with pytest.raises(UserError, match=r"cell_anchors\.2 of .* has other anchors"):
        convert("eql", path, config("EQL"))


@pytest.mark.parametrize(("suffix", "depth"), [("pth", 50), ("pkl", 18)])
def test_torchvision_backbone_equals_torchvision(suffix, depth, config, tmp_path):
    theirs = resnet(depth)
    path = tmp_path / "resnet.pth"
    torch.save(theirs.state_dict(), path)
    width = 64 if depth == 18 else 256
    cfg = config("Softmax", "MODEL.RESNETS.DEPTH", depth, "MODEL.RESNETS.RES2_OUT_CHANNELS", width)
    conversion, file = convert("torchvision", path, cfg)
    assert set(conversion.not_found.values()) == {"trained later"}
    assert "fc.weight" in conversion.not_needed
    assert max(prove(conversion, file, "torchvision").values()) < 1e-5
    output = tmp_path / f"backbone.{suffix}"
    save(conversion, output)
    loaded = build_model(conversion.cfg).eval()
    AtomicCheckpointer(loaded).load(str(output))
    x = torch.randn(1, 3, 64, 64)
    stages = torchvision.models._utils.IntermediateLayerGetter(theirs, {"layer2": "res3", "layer4": "res5"})
    with torch.no_grad():
        features, expected = loaded.backbone.bottom_up(x), stages(x)
    for name in ("res3", "res5"):
        assert torch.allclose(features[name], expected[name], rtol=1e-4, atol=1e-5 * expected[name].abs().max())


def test_the_output_predicts_without_the_dataset(config, tmp_path):
    conversion, _ = convert("mmdet", write(tmp_path, mmdet(K + 2)), config("Seesaw", *NORMED))
    output = tmp_path / "converted" / "seesaw.pth"
    config_file = save(conversion, output)
    assert str(output) == load_config(str(config_file)).MODEL.WEIGHTS
    description = read_description(str(output))
    assert "RGB" in description["config"] and len(description["classes"]["categories"]) == K
    predictor = Predictor(output, score_threshold=0.0)
    predictor(np.zeros((64, 64, 3), dtype=np.uint8))
    ours = conversion.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in predictor.model.state_dict().items())


@pytest.mark.parametrize("cascade", [False, True])
def test_a_sigmoid_classifier_of_detectron2_loses_its_column_for_background(cascade, config, tmp_path):
    """As in ViTDet's and CenterNet2's LVIS models: K + 1 columns, of which the last has no part in the loss."""
    torch.manual_seed(1)
    cfg = config("Federated", *(CASCADE if cascade else []))
    tensors = build_model(cfg).state_dict()
    for name in list(tensors):
        if ".cls_score." in name:
            extra = torch.randn_like(tensors[name][:1])
            tensors[name] = torch.cat([torch.randn_like(tensors[name]), extra])
        elif name.endswith("sampling_weights"):
            del tensors[name]
    place = "roi_heads.box_predictor.0" if cascade else "roi_heads.box_predictor"
    tensors[f"{place}.fed_loss_cls_weights"] = torch.rand(K)  # Detectron2's buffer
    path = tmp_path / "model_final.pth"
    torch.save({"model": tensors, "iteration": 1}, path)
    conversion, file = convert("detectron2", path, cfg)
    assert conversion.changes == []
    state = conversion.model.state_dict()
    assert torch.equal(state[f"{place}.cls_score.weight"], tensors[f"{place}.cls_score.weight"][:K])
    assert list(conversion.not_needed) == [f"{place}.fed_loss_cls_weights"]
    assert len(prove(conversion, file, "detectron2")) == (6 if cascade else 2)
    predictor = conversion.model.roi_heads.box_predictor
    with torch.no_grad():
        layer = (predictor[-1] if cascade else predictor).cls_score
        layer.weight.copy_(layer.weight.roll(1, dims=0))
    with pytest.raises(UserError, match="does not compute what"):
        prove(conversion, file, "detectron2")


def test_torchvision_weights_are_known_by_their_checksum(tmp_path):
    assert describe_checksum("63fe2227") == "These are torchvision's ResNet101 IMAGENET1K_V1 (top-1 77.4)."
    newer = describe_checksum("cd907fc2")
    assert newer.startswith("WARNING: These are torchvision's ResNet101 IMAGENET1K_V2 (top-1 81.9)")
    assert newer.endswith("IMAGENET1K_V1 (top-1 77.4): resnet101-63fe2227.pth.")
    path = tmp_path / "resnet101-63fe2227.pth"
    path.write_bytes(b"half a download")
    with pytest.raises(UserError, match="and not the 63fe2227 of their name; download them again"):
        check_imagenet_weights(path)
    assert "of no weights that torchvision publishes" in check_imagenet_weights(path.rename(tmp_path / "mine.pth"))
