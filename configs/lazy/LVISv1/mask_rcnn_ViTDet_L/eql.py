"""Equalization Loss."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.loss.update(method="eql", lambda_=0.00101)  # rare and common classes of LVIS v1.0
