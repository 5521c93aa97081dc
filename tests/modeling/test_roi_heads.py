"""Both ROI heads inside a whole model: one training step, inference, state."""

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from eql_d2.data.training.loader import build_train_loader
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.modeling import BOX_PREDICTOR_REGISTRY


def make_cascade(cfg):
    cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True


@pytest.mark.parametrize("predictor", [name for name, _ in BOX_PREDICTOR_REGISTRY])
@pytest.mark.parametrize("cascade", [False, True])
def test_one_step_and_inference(tiny_cfg, predictor, cascade):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = predictor
    if cascade:
        make_cascade(tiny_cfg)
    torch.manual_seed(0)
    model = build_model(tiny_cfg)
    batch = next(iter(build_train_loader(tiny_cfg, seed=0)))
    with EventStorage():
        losses = model(batch)
    stages = ("_stage0", "_stage1", "_stage2") if cascade else ("",)
    assert {f"loss_cls{stage}" for stage in stages} <= set(losses)
    sum(losses.values()).backward()
    without_gradient = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without_gradient
    model.eval()
    with torch.no_grad():
        instances = model(batch)[0]["instances"]
    assert instances.pred_masks.shape == (len(instances), *instances.image_size)
    assert instances.pred_classes.max() < 6


def test_cascade_inference_equals_detectron2(tiny_cfg):
    """The stages end with another selection; the detections are those of Detectron2's own heads."""
    make_cascade(tiny_cfg)
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    torch.manual_seed(0)
    ours = build_model(tiny_cfg).eval()
    tiny_cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    theirs = build_model(tiny_cfg).eval()
    theirs.load_state_dict(ours.state_dict())
    batch = next(iter(build_train_loader(tiny_cfg, seed=0)))
    with torch.no_grad():
        for our_output, their_output in zip(ours(batch), theirs(batch), strict=True):
            our_instances, their_instances = our_output["instances"], their_output["instances"]
            assert len(our_instances) == len(their_instances) > 0
            torch.testing.assert_close(our_instances.scores, their_instances.scores)
            torch.testing.assert_close(our_instances.pred_boxes.tensor, their_instances.pred_boxes.tensor)


@pytest.mark.parametrize("predictor", ["SeesawPredictor", "EQLv2Predictor"])
def test_cascade_scores_are_averaged_as_asked(tiny_cfg, predictor):
    """Against the stages run one after the other by hand; logits and probabilities differ."""
    make_cascade(tiny_cfg)
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = predictor
    tiny_cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER = True  # larger logits, so that the averages differ
    results = {}
    batch = next(iter(build_train_loader(tiny_cfg, seed=0)))
    for average in ("probability", "logit"):
        tiny_cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE = average
        torch.manual_seed(0)
        heads = (model := build_model(tiny_cfg).eval()).roi_heads
        seen = []
        for stage_predictor in heads.box_predictor:
            stage_predictor.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output[0]))
        selected = []
        last = heads.box_predictor[-1]
        last.select = lambda boxes, scores, proposals, plain=last.select, got=selected: (
            got.extend(scores) or plain(boxes, scores, proposals)
        )
        with torch.no_grad():
            model(batch)
            if average == "logit":
                expected = last.loss.scores(sum(seen) / 3)
            else:
                expected = sum(p.loss.scores(z) for p, z in zip(heads.box_predictor, seen, strict=True)) / 3
        results[average] = torch.cat(selected)
        torch.testing.assert_close(results[average], expected)
    assert not torch.allclose(results["probability"], results["logit"])


def test_an_unknown_average_is_named(tiny_cfg):
    make_cascade(tiny_cfg)
    tiny_cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCORE_AVERAGE = "mean"
    with pytest.raises(UserError, match="SCORE_AVERAGE is 'mean'; it must be probability or logit"):
        build_model(tiny_cfg)


def step(cfg, batch):
    """Losses and the gradient of the FPN's finest level of one training step, by name."""
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.manual_seed(1)  # the choice of RoIs
    with EventStorage():
        losses = model(batch)
    sum(value for name, value in losses.items() if "_stage" in name).backward()
    return {name: value.item() for name, value in losses.items()}, model.backbone.fpn_output2.weight.grad


def test_cascade_stages_have_the_weights_and_gradients_asked_for(tiny_cfg):
    make_cascade(tiny_cfg)
    batch = next(iter(build_train_loader(tiny_cfg, seed=0)))
    plain, mean = step(tiny_cfg, batch)
    cascade = tiny_cfg.MODEL.ROI_BOX_CASCADE_HEAD
    cascade.FEATURE_GRADIENT = "sum"
    same, total = step(tiny_cfg, batch)
    assert same == plain
    torch.testing.assert_close(total, 3 * mean)
    cascade.STAGE_WEIGHTS = (1.0, 0.5, 0.25)
    weighted, _ = step(tiny_cfg, batch)
    for name, value in plain.items():
        factor = {"0": 1, "1": 0.5, "2": 0.25}[name[-1]] if "_stage" in name else 1
        assert weighted[name] == pytest.approx(factor * value), name


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("STAGE_WEIGHTS", (1.0, 0.5), r"STAGE_WEIGHTS is \(1.0, 0.5\); give each of the 3 stages a weight"),
        ("STAGE_WEIGHTS", (1.0, 0.5, -1.0), "of at least 0, or none"),
        ("FEATURE_GRADIENT", "max", "FEATURE_GRADIENT is 'max'; it must be mean or sum"),
    ],
)
def test_bad_values_of_a_cascade_are_named(tiny_cfg, key, value, sentence):
    make_cascade(tiny_cfg)
    tiny_cfg.MODEL.ROI_BOX_CASCADE_HEAD[key] = value
    with pytest.raises(UserError, match=sentence):
        build_model(tiny_cfg)


def test_cascade_stages_own_their_losses(tiny_cfg):
    make_cascade(tiny_cfg)
    predictors = build_model(tiny_cfg).roi_heads.box_predictor
    assert len({id(predictor.loss) for predictor in predictors}) == 3
    weights = [predictor.box2box_transform.weights for predictor in predictors]
    assert weights == [tuple(w) for w in tiny_cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS]


def test_batch_of_images_without_objects(tiny_cfg):
    """All proposals are background: the losses stay finite and every parameter gets a gradient."""
    tiny_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    DatasetCatalog.register("tiny_empty", lambda: [{**r, "annotations": []} for r in DatasetCatalog.get("tiny_val")])
    try:
        torch.manual_seed(0)
        model = build_model(tiny_cfg)
        tiny_cfg.DATASETS.TRAIN = ("tiny_empty",)
        batch = next(iter(build_train_loader(tiny_cfg, seed=0)))
    finally:
        DatasetCatalog.remove("tiny_empty")
    with EventStorage():
        losses = model(batch)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert model.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0


def test_config_round_trip(tiny_cfg, tmp_path):
    tiny_cfg.MODEL.LONG_TAIL.EQL.LAMBDA = 0.25
    path = tmp_path / "dumped.yaml"
    path.write_text(tiny_cfg.dump())
    # Compared as YAML, which knows no tuples.
    assert yaml.safe_load(load_config(str(path)).dump()) == yaml.safe_load(tiny_cfg.dump())
