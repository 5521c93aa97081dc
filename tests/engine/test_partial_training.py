"""Second stages: what is frozen stays as it was loaded, to the last bit, and what trains is what was named."""

import pytest
import torch

from eql_d2.engine import LongTailTrainer
from eql_d2.engine.partial_training import freeze_all_but
from eql_d2.errors import UserError
from tests.engine.test_resume import train

CLASSIFIER = "roi_heads.box_predictor*.cls_score.*"


@pytest.fixture
def first_stage(tiny_cfg, tmp_path):
    """The config of a second stage, and the weights of a softmax detector that trained for two steps."""
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    tiny_cfg.SOLVER.MAX_ITER = 2
    weights = train(tiny_cfg).model.state_dict()
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "run" / "model_final.pth")
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "second")
    tiny_cfg.SOLVER.TRAINABLE = (CLASSIFIER,)
    return tiny_cfg, {name: value.clone() for name, value in weights.items()}


def changed(first, second):
    return {name for name, value in second.items() if name not in first or not torch.equal(value, first[name])}


def test_the_classifier_alone_trains(first_stage):
    cfg, first = first_stage
    second = train(cfg).model.state_dict()
    assert changed(first, second) == {f"roi_heads.box_predictor.cls_score.{part}" for part in ("weight", "bias")}
    # The statistics of batch normalization would have moved in training mode.
    assert any("running_mean" in name for name in second)


def test_bags_takes_all_but_the_classifier_which_has_another_shape(first_stage):
    cfg, first = first_stage
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "BAGSPredictor"
    trainer = train(cfg)
    second = trainer.model.state_dict()
    assert changed(first, second) == {f"roi_heads.box_predictor.cls_score.{part}" for part in ("weight", "bias")}
    shapes = trainer.checkpointer.misfits["roi_heads.box_predictor.cls_score.weight"]
    assert shapes == "shape (7, 32), not (12, 32)"
    # Resuming the second stage does not ask for the first again.
    cfg.MODEL.WEIGHTS, cfg.SOLVER.MAX_ITER = "", 3
    assert changed(first, train(cfg, resume=True).model.state_dict()) == changed(first, second)


def test_crt_starts_from_a_new_classifier(first_stage):
    cfg, first = first_stage
    cfg.MODEL.WEIGHTS_EXCLUDE = (CLASSIFIER,)
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassAwareTrainingSampler"
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    second = trainer.model.state_dict()
    # Biases start at 0 in both.
    assert changed(first, second) >= {"roi_heads.box_predictor.cls_score.weight"}
    assert changed(first, second) <= {f"roi_heads.box_predictor.cls_score.{part}" for part in ("weight", "bias")}
    assert "excluded by MODEL.WEIGHTS_EXCLUDE" in trainer.checkpointer.misfits.values()


def test_lws_trains_a_scale_for_each_class(first_stage):
    cfg, first = first_stage
    cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER = True
    cfg.SOLVER.TRAINABLE = ("roi_heads.box_predictor*.cls_score.scale",)
    second = train(cfg).model.state_dict()
    assert changed(first, second) == {"roi_heads.box_predictor.cls_score.scale"}
    assert not torch.equal(second["roi_heads.box_predictor.cls_score.scale"], torch.ones(7))


def test_all_stages_of_a_cascade(first_stage):
    cfg, _ = first_stage
    cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model = LongTailTrainer.build_model(cfg)
    freeze_all_but(model, cfg.SOLVER.TRAINABLE)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {
        f"roi_heads.box_predictor.{stage}.cls_score.{part}" for stage in range(3) for part in ("weight", "bias")
    }


# --- mistakes ---------------------------------------------------------------------------------------------


def refused(cfg):
    with pytest.raises(UserError) as error:
        LongTailTrainer(cfg).resume_or_load(resume=False)
    return str(error.value)


def test_no_weights(first_stage):
    cfg, _ = first_stage
    cfg.MODEL.WEIGHTS = ""
    assert "MODEL.WEIGHTS is empty; set it to one's model_final.pth" in refused(cfg)


def test_a_pattern_that_names_nothing(first_stage):
    cfg, _ = first_stage
    cfg.SOLVER.TRAINABLE = (CLASSIFIER, "head.cls_score")
    assert "SOLVER.TRAINABLE has 'head.cls_score', which no parameter's name fits; names are like" in refused(cfg)


def test_frozen_tensors_that_do_not_fit_are_named_with_the_reason(first_stage):
    cfg, _ = first_stage
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    sentence = refused(cfg)
    assert "does not hold what SOLVER.TRAINABLE leaves frozen" in sentence
    assert "roi_heads.box_head.fc2.weight (shape (32, 32), not (16, 16))" in sentence
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.WEIGHTS_EXCLUDE = ("roi_heads.mask_head.deconv.*",)
    assert "roi_heads.mask_head.deconv.weight (excluded by MODEL.WEIGHTS_EXCLUDE)" in refused(cfg)
    cfg.MODEL.WEIGHTS_EXCLUDE = ()
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 2
    assert "roi_heads.mask_head.mask_fcn2.weight (not in the file)" in refused(cfg)


def test_evaluation_of_another_model_is_refused(first_stage):
    cfg, _ = first_stage
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "BAGSPredictor"
    with pytest.raises(UserError, match=r"do not fit the model: .*cls_score.weight \(shape \(7, 32\), not \(12, 32\)"):
        LongTailTrainer.build_trained_model(cfg)


def test_both_kinds_of_classifier(tiny_cfg):
    tiny_cfg.MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER = tiny_cfg.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER = True
    with pytest.raises(UserError, match="has both NORMED_CLASSIFIER and SCALED_CLASSIFIER; set one to False"):
        LongTailTrainer.build_model(tiny_cfg)


def test_nan_in_training_names_the_iteration(tiny_cfg):
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    run_step = trainer.run_step

    def run_step_with_nan():
        if trainer.iter == 2:
            trainer.model.roi_heads.box_predictor.cls_score.bias.data[0] = torch.nan
        run_step()

    trainer.run_step = run_step_with_nan
    with pytest.raises(UserError, match=r"Loss became infinite or NaN at iteration=2! .* lower SOLVER.BASE_LR"):
        trainer.train()
