"""ROI heads of this project for the lazy configs: the two changes that make one of Detectron2's."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from omegaconf import DictConfig

from eql_d2.data.category_counts import dataset_counts
from eql_d2.losses import build_loss
from eql_d2.modeling import LongTailCascadeROIHeads, LongTailPredictor, LongTailROIHeads, LongTailRPN


def predictor_options(topk: int = 300) -> dict:
    """Options of LongTailPredictor that are not Detectron2's defaults; leaves replace the loss's."""
    return {
        "test_score_thresh": 0.0001,
        "test_topk_per_image": topk,
        "loss": L(build_loss)(
            method="softmax",
            num_classes="${..num_classes}",
            statistics=L(dataset_counts)(dataset_names="${dataloader.train.names}"),
        ),
    }


def use_long_tail(model: DictConfig, num_classes: int, topk: int = 300) -> None:
    """Give one of Detectron2's Mask R-CNNs this project's RPN, ROI heads and box predictor, in place."""
    model.proposal_generator._target_ = LongTailRPN
    model.roi_heads._target_ = LongTailROIHeads
    model.roi_heads.num_classes = num_classes
    model.roi_heads.box_predictor.update(_target_=LongTailPredictor, **predictor_options(topk))


def use_cascade(model: DictConfig, **box_head) -> None:
    """Three stages in place of one, in place; ``box_head``: options of each stage's box head."""
    for key in ("box_head", "box_predictor", "proposal_matcher"):  # one of each for every stage instead
        model.roi_heads.pop(key)
    model.roi_heads.update(
        _target_=LongTailCascadeROIHeads,
        box_heads=[
            L(FastRCNNConvFCHead)(input_shape=ShapeSpec(channels=256, height=7, width=7), **box_head) for _ in range(3)
        ],
        box_predictors=[
            L(LongTailPredictor)(
                input_shape=ShapeSpec(channels=1024),
                box2box_transform=L(Box2BoxTransform)(weights=(w1, w1, w2, w2)),
                num_classes="${...num_classes}",
                cls_agnostic_bbox_reg=True,
                **predictor_options(),
            )
            for (w1, w2) in [(10, 5), (20, 10), (30, 15)]
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[threshold], labels=[0, 1], allow_low_quality_matches=False)
            for threshold in (0.5, 0.6, 0.7)
        ],
    )
