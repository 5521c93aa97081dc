"""A small Mask R-CNN for EmojiLVIS's demo set, from shipped weights: the twin of EmojiLVIS/Base-demo.yaml."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from eql_d2.package_files import configs_folder

from ..common.lvis_v1 import dataloader
from ..common.roi_heads import use_long_tail
from ..common.train import train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.pixel_std = [57.375, 57.120, 58.395]
model.backbone.bottom_up.stem.update(norm="BN", out_channels=32)
model.backbone.bottom_up.stages = [  # R50 at a quarter of its width
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=blocks,
        stride_per_block=[stride] + [1] * (blocks - 1),
        in_channels=in_channels,
        bottleneck_channels=width,
        out_channels=4 * width,
        stride_in_1x1=True,
        norm="BN",
    )
    for blocks, stride, in_channels, width in ((3, 1, 32, 16), (4, 2, 64, 32), (6, 2, 128, 64), (3, 2, 256, 128))
]
model.backbone.update(out_channels=64, norm="BN")
use_long_tail(model, num_classes=60, topk=100)
model.proposal_generator.update(
    in_features=["p2", "p3", "p4", "p5"],
    batch_size_per_image=128,
    pre_nms_topk=(500, 500),
    post_nms_topk=(200, 200),
)
model.proposal_generator.head.update(in_channels=64, num_anchors=6)
model.proposal_generator.anchor_generator.update(sizes=[[12, 16], [22, 30], [40, 52], [64, 80]], strides=[4, 8, 16, 32])
model.roi_heads.update(
    batch_size_per_image=64,
    box_in_features=["p2"],  # objects are 12 to 60 pixels long
    mask_in_features=["p2"],
)
model.roi_heads.box_pooler.update(scales=[1 / 4], sampling_ratio=1)
model.roi_heads.box_head.update(input_shape=ShapeSpec(channels=64, height=7, width=7), fc_dims=[256, 256])
model.roi_heads.box_predictor.update(
    input_shape=ShapeSpec(channels=256),
    cls_agnostic_bbox_reg=True,  # rare classes have too few boxes to learn their own
)
model.roi_heads.mask_pooler.update(output_size=8, scales=[1 / 4], sampling_ratio=1)
# Rare classes have too few masks to learn their own: one for all.
model.roi_heads.mask_head.update(
    input_shape=ShapeSpec(channels=64, height=8, width=8), num_classes=1, conv_dims=[64, 64, 64]
)

dataloader.train.update(names="emoji_lvis_demo_train", total_batch_size=4, num_workers=1)
dataloader.train.mapper.update(
    augmentations=[
        L(T.ResizeShortestEdge)(short_edge_length=(128,), sample_style="choice", max_size=128),
        L(T.RandomFlip)(horizontal=True),
    ],
    instance_mask_format="bitmask",  # some masks are stored as RLE
)
dataloader.test.update(name="emoji_lvis_demo_val", num_workers=1)
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=128, max_size=128)]
dataloader.evaluator.max_dets_per_image = 100

train.update(max_iter=430, eval_period=0, seed=1, cpu_threads=1)
train.init_checkpoint = str(configs_folder() / "EmojiLVIS" / "pretrained.safetensors")
train.checkpointer.period = 100

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.03
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[400], num_updates="${train.max_iter}"),
    warmup_length=50 / 430,
    warmup_factor=0.001,
)
