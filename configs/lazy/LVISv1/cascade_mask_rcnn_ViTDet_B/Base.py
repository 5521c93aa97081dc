"""Cascade Mask R-CNN with ViTDet-B; otherwise as mask_rcnn_ViTDet_B."""

from ...common.roi_heads import use_cascade
from ..mask_rcnn_ViTDet_B.Base import dataloader, lr_multiplier, model, optimizer, train

use_cascade(model, conv_dims=[256, 256, 256, 256], fc_dims=[1024], conv_norm="LN")
