"""Federated loss, one in each stage."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

for predictor in model.roi_heads.box_predictors:
    predictor.loss.update(method="federated")
del predictor  # a config hands on its variables
