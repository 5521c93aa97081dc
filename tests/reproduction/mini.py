"""The table of the tests."""

MINI_TABLE = """
title: Mini
num_gpus: 2
source: a paper, table 1
dataset: tiny
model: Mask R-CNN R18-FPN
task: segm
config: tiny.yaml
seeds: [0, 1]
rows:
- {id: eql, method: EQL, reported: {AP: 20.0, APr: 5.0, APbbox: 21.0}}
- {id: same, method: EQL again, reported: {AP: 20.0}}
- {id: softmax, method: Softmax, overrides: [MODEL.ROI_BOX_HEAD.PREDICTOR, SoftmaxPredictor], reported: {AP: 18.5}}
- {id: bags, method: BAGS, reported: {AP: 22.0}, first_stage: {config: tiny.yaml, overrides: [
   MODEL.ROI_BOX_HEAD.PREDICTOR, SoftmaxPredictor]}, overrides: [MODEL.ROI_BOX_HEAD.PREDICTOR, BAGSPredictor,
   SOLVER.TRAINABLE, '("roi_heads.box_predictor*.cls_score.*",)']}
- {id: bags_on_eql, method: BAGS on EQL, first_stage: {config: tiny.yaml, overrides: [SOLVER.MAX_ITER, 1]},
   overrides: [MODEL.ROI_BOX_HEAD.PREDICTOR, BAGSPredictor, SOLVER.TRAINABLE,
   '("roi_heads.box_predictor*.cls_score.*",)']}
- {id: htc, method: HTC, not_trained: HTC is not part of Detectron2, reported: {AP: 30.0}}
- {id: gone, method: Gone, config: gone.yaml}
"""
