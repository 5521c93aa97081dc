"""Balanced Group Softmax, trained end to end."""

from .Base import dataloader, lr_multiplier, model, optimizer, train

model.roi_heads.box_predictor.loss.update(method="bags", bin_edges=[10, 100, 1000])
