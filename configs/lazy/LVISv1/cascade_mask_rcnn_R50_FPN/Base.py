"""Cascade Mask R-CNN R50-FPN; otherwise as mask_rcnn_R50_FPN."""

from ...common.roi_heads import use_cascade
from ..mask_rcnn_R50_FPN.Base import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.post_nms_topk = (2000, 1000)
use_cascade(model, conv_dims=[], fc_dims=[1024, 1024])
