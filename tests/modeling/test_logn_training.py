"""LogN from end to end: an epoch without learning collects, and the checkpoint's statistics act in a test."""

import copy

import torch

from eql_d2.engine import LongTailTrainer


def test_an_epoch_without_learning_collects_and_the_checkpoint_calibrates(tiny_cfg):
    tiny_cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = "SoftmaxPredictor"
    tiny_cfg.TEST.LOGN.COLLECT, tiny_cfg.TEST.LOGN.MOMENTUM = True, 0.5
    tiny_cfg.SOLVER.BASE_LR = 0.0
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 2, 2
    trainer = LongTailTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    before = copy.deepcopy(dict(trainer.model.named_parameters()))
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    collected = trainer.model.roi_heads.box_predictor.calibration.statistics
    assert collected.num_steps == 2
    assert (collected.variance != 1).all()
    tiny_cfg.MODEL.WEIGHTS = trainer.checkpointer.get_checkpoint_file()
    tiny_cfg.TEST.LOGN.COLLECT, tiny_cfg.TEST.LOGN.ENABLED = False, True
    model = LongTailTrainer.build_trained_model(tiny_cfg).eval()
    predictor = model.roi_heads.box_predictor
    assert torch.equal(predictor.calibration.statistics.mean, collected.mean)
    logits = torch.randn(5, 7)
    assert not torch.allclose(predictor.test_logits((logits, logits)), logits)
