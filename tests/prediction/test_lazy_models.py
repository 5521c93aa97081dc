"""Weights of a lazy config predict as its model does, once its file is named."""

import numpy as np
import pytest
import torch

from eql_d2.data.registration import register_lvis_format
from eql_d2.engine.lazy_trainer import LazyTrainer, setup_lazy
from eql_d2.errors import UserError
from eql_d2.prediction.predictor import Predictor
from tests.engine.test_lazy_trainer import SMALL, arguments

CONFIG = "lazy/EmojiLVIS/demo_eql.py"


def test_predictions_are_those_of_the_lazy_model(tiny_set, tmp_path):
    for split in ("train", "val"):
        register_lvis_format(f"twin_{split}", tiny_set / f"{split}.json", tiny_set)
    torch.manual_seed(0)
    trainer = LazyTrainer(setup_lazy(arguments(CONFIG, *SMALL, f"train.output_dir={tmp_path}/run", "train.seed=0")))
    trainer.checkpointer.save("model_final", iteration=0)
    weights = f"{tmp_path}/run/model_final.pth"
    with pytest.raises(
        UserError, match=r"model_final\.pth are of a lazy config, .* give its Python file with --config"
    ):
        Predictor(weights)
    own = [option for option in SMALL if not option.startswith("dataloader.")]  # the classes are the checkpoint's
    predictor = Predictor(weights, CONFIG, own, score_threshold=0.0, max_detections=7)
    assert len(predictor.categories) == 6
    image = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    found = predictor(image)
    model = trainer.model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.roi_heads.box_predictor.test_topk_per_image = 7
    pixels = torch.as_tensor(image[:, :, ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        expected = model([{"image": pixels, "height": 128, "width": 96}])[0]["instances"]
    assert len(found) == len(expected) == 7
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.pred_masks, expected.pred_masks)
