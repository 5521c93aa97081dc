"""ViTDet's lazy configs on Detectron2's main branch: a small one trains and is evaluated."""

import pytest
from detectron2.engine import default_argument_parser

from eql_d2.data.registration import register_lvis_format
from eql_d2.engine.lazy_trainer import LazyTrainer, setup_lazy

pytest.importorskip("timm")
pytest.importorskip("shapely")
pytest.importorskip("detectron2.modeling.backbone.vit", reason="Detectron2 v0.6 has no ViT")

NET = ("img_size=64", "embed_dim=32", "depth=2", "num_heads=2", "window_size=2", "window_block_indexes=[0]")
TRAIN_MAPPER = (
    "augmentations.1.target_height=64",
    "augmentations.1.target_width=64",
    "augmentations.2.crop_size=[64,64]",
    "instance_mask_format=bitmask",
)
SMALL = [
    *(f"model.backbone.net.{option}" for option in NET),
    *("model.backbone.square_pad=64", "model.roi_heads.num_classes=6"),
    *("dataloader.train.names=vit_train", "dataloader.test.name=vit_val", "dataloader.train.total_batch_size=2"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "dataloader.train.repeat_threshold=0.3"),
    *(f"dataloader.train.mapper.{option}" for option in TRAIN_MAPPER),
    *(f"dataloader.test.mapper.augmentations.0.{option}" for option in ("short_edge_length=64", "max_size=64")),
    *("train.init_checkpoint=''", "train.amp.dtype=bfloat16", "train.ddp.fp16_compression=false", "train.max_iter=4"),
    *("train.eval_period=0", "lr_multiplier.scheduler.milestones=[2,3]", "train.seed=0", "train.device=cpu"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn_ViTDet_B/eqlv2.py", "cascade_mask_rcnn_ViTDet_B/seesaw.py"])
def test_a_small_vitdet_trains_and_is_evaluated(name, tiny_set, tmp_path):
    for split in ("train", "val"):
        register_lvis_format(f"vit_{split}", tiny_set / f"{split}.json", tiny_set)
    options = ["--config-file", f"lazy/LVISv1/{name}", *SMALL, f"train.output_dir={tmp_path / 'run'}"]
    trainer = LazyTrainer(setup_lazy(default_argument_parser().parse_args(options)))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert set(trainer._last_eval_results) == {"bbox", "segm"}
    assert (tmp_path / "run" / "model_final.pth").exists()
