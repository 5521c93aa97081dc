"""Seesaw Loss."""

from .Base_demo import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.loss.update(method="seesaw")
train.output_dir = "output/emoji_lvis_demo/seesaw_lazy"
