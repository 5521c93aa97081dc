"""Cascade Mask R-CNN R50-FPN; otherwise as mask_rcnn_R50_FPN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from eql_d2.data.category_counts import dataset_counts
from eql_d2.losses import build_loss
from eql_d2.modeling import LongTailCascadeROIHeads, LongTailPredictor

from ..mask_rcnn_R50_FPN.Base import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.post_nms_topk = (2000, 1000)
for key in ("box_head", "box_predictor", "proposal_matcher"):  # one of each for every stage instead
    model.roi_heads.pop(key)
model.roi_heads.update(
    _target_=LongTailCascadeROIHeads,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=256, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024]
        )
        for _ in range(3)
    ],
    box_predictors=[
        L(LongTailPredictor)(
            input_shape=ShapeSpec(channels=1024),
            box2box_transform=L(Box2BoxTransform)(weights=(w1, w1, w2, w2)),
            num_classes="${...num_classes}",
            cls_agnostic_bbox_reg=True,
            test_score_thresh=0.0001,
            test_topk_per_image=300,
            loss=L(build_loss)(
                method="softmax",
                num_classes="${..num_classes}",
                statistics=L(dataset_counts)(dataset_names="${dataloader.train.names}"),
            ),
        )
        for (w1, w2) in [(10, 5), (20, 10), (30, 15)]
    ],
    proposal_matchers=[
        L(Matcher)(thresholds=[threshold], labels=[0, 1], allow_low_quality_matches=False)
        for threshold in (0.5, 0.6, 0.7)
    ],
)
