"""Seesaw Loss."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.loss.update(method="seesaw")
model.roi_heads.box_predictor.normed_classifier = True
