"""Federated loss."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.loss.update(method="federated")
