"""Mask R-CNN R50-FPN by the recipe of EQL's official code: 90k iterations of 16 images (official/mask_rcnn_R50_FPN)."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from eql_d2.modeling import OwnClassMaskRCNNConvUpsampleHead

from ...common.lvis_v1 import dataloader
from ...common.roi_heads import use_long_tail
from ...common.train import train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
use_long_tail(model, num_classes=1203)
model.roi_heads.mask_head._target_ = OwnClassMaskRCNNConvUpsampleHead

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
