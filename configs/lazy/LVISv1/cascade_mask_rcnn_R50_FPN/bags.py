"""Balanced Group Softmax, trained end to end, one in each stage."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

for predictor in model.roi_heads.box_predictors:
    predictor.loss.update(method="bags", bin_edges=[10, 100, 1000])
del predictor  # a config hands on its variables
