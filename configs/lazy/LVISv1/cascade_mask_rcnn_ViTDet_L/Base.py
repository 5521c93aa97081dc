"""Cascade ViTDet-L; otherwise as with ViTDet-B."""

from functools import partial

from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

from ..cascade_mask_rcnn_ViTDet_B.Base import dataloader, lr_multiplier, model, optimizer, train

train.init_checkpoint = "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_large.pth?matching_heuristics=True"
net = model.backbone.net
net.embed_dim, net.depth, net.num_heads, net.drop_path_rate = 1024, 24, 16, 0.4
net.window_block_indexes = [block for block in range(24) if block not in (5, 11, 17, 23)]  # those attend globally
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, lr_decay_rate=0.8, num_layers=24)
del net  # a config hands on its variables
