"""Mask R-CNN R50-FPN by the recipe of EQL's official code: 90k iterations of 16 images (official/mask_rcnn_R50_FPN)."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from eql_d2.data.category_counts import dataset_counts
from eql_d2.losses import build_loss
from eql_d2.modeling import LongTailPredictor, LongTailROIHeads, LongTailRPN, OwnClassMaskRCNNConvUpsampleHead

from ...common.lvis_v1 import dataloader
from ...common.train import train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
model.proposal_generator._target_ = LongTailRPN
model.roi_heads._target_ = LongTailROIHeads
model.roi_heads.num_classes = 1203
model.roi_heads.mask_head._target_ = OwnClassMaskRCNNConvUpsampleHead
model.roi_heads.box_predictor.update(
    _target_=LongTailPredictor,
    test_score_thresh=0.0001,
    test_topk_per_image=300,
    loss=L(build_loss)(
        method="softmax",
        num_classes="${..num_classes}",
        statistics=L(dataset_counts)(dataset_names="${dataloader.train.names}"),
    ),
)

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 90000
train.eval_period = 0  # at the end

optimizer = model_zoo.get_config("common/optim.py").SGD
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[60000, 80000], num_updates="${train.max_iter}"
    ),
    warmup_length=1000 / 90000,
    warmup_factor=0.001,
    warmup_method="linear",
)
