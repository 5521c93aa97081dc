"""ViTDet-B with Mask R-CNN on LVIS by upstream's recipe (Li et al., ECCV 2022), 100 epochs of 64 images of 1024 pixels.

For Detectron2's main branch; needs timm, as its ViT does: pip install 'eql_d2[timm]'.
"""

from functools import partial

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from eql_d2.modeling import NormedMaskRCNNConvUpsampleHead

from ...common.lvis_v1 import dataloader
from ...common.roi_heads import use_long_tail
from ...common.train import train

IMAGE_SIZE = 1024

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
use_long_tail(model, num_classes=1203)
model.roi_heads.mask_head._target_ = NormedMaskRCNNConvUpsampleHead

dataloader.train.mapper.update(
    augmentations=[
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=IMAGE_SIZE, target_width=IMAGE_SIZE),
        L(T.FixedSizeCrop)(crop_size=(IMAGE_SIZE, IMAGE_SIZE), pad=False),
    ],
    image_format="RGB",
    recompute_boxes=True,
)
dataloader.train.update(sampler="RepeatFactorTrainingSampler", repeat_threshold=0.001, total_batch_size=64)
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=IMAGE_SIZE, max_size=IMAGE_SIZE)]

train.amp.enabled = True
train.ddp.fp16_compression = True
train.init_checkpoint = "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
train.max_iter = 156250
train.eval_period = 30000

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 2e-4
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[138889, 150463], num_updates="${train.max_iter}"
    ),
    warmup_length=250 / 156250,
    warmup_factor=0.001,
)
