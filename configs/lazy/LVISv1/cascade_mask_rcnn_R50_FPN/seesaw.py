"""Seesaw Loss, one in each stage."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

for predictor in model.roi_heads.box_predictors:
    predictor.loss.update(method="seesaw")
    predictor.normed_classifier = True
del predictor  # a config hands on its variables
