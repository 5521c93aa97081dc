"""Equalization Loss: the twin of EmojiLVIS/demo_eql.yaml."""

from .Base_demo import dataloader, lr_multiplier, model, optimizer, train

# 100 of 800 images: rare and common classes by LVIS's thresholds.
model.roi_heads.box_predictor.loss.update(method="eql", lambda_=0.125)
train.output_dir = "output/emoji_lvis_demo/eql_lazy"
