"""Equalization Loss, one in each stage."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

for predictor in model.roi_heads.box_predictors:
    predictor.loss.update(method="eql", lambda_=0.00101)  # rare and common classes of LVIS v1.0
del predictor  # a config hands on its variables
