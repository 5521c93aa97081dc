"""A short run on digits, and a small folder of images."""

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image

from eql_d2.classification.classifier_trainer import CLASSIFICATION
from eql_d2.engine import load_config
from eql_d2.engine.auto_values import resolve_auto_values
from tests.conftest import ROOT

DIGITS = str(ROOT / "configs" / "classification" / "digits_lt" / "softmax.yaml")


def ready(config_file: str, options: list) -> CfgNode:
    """A config whose datasets are registered and whose auto values are settled, as ``setup`` does it; not frozen."""
    cfg = load_config(config_file, ["MODEL.DEVICE", "cpu", *options])
    CLASSIFICATION.check_model(cfg)
    CLASSIFICATION.register_datasets(cfg)
    resolve_auto_values(cfg)
    CLASSIFICATION.check_datasets(cfg, False)
    return cfg


@pytest.fixture
def digits_cfg(tmp_path):
    """Six iterations on digits, with a checkpoint every second."""
    options = ["SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (4,), "SOLVER.IMS_PER_BATCH", 8, "SOLVER.CHECKPOINT_PERIOD", 2]
    return ready(DIGITS, [*options, "SEED", 1, "OUTPUT_DIR", str(tmp_path / "run")])


@pytest.fixture
def image_folder(tmp_path):
    """Folder with train and val, of two classes of 6 and 3 images of different sizes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for class_name, count in (("ant", 6), ("bee", 3)):
            folder = tmp_path / "images" / split / class_name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, size=(20 + number, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def folder_options(image_folder, tmp_path):
    """Overrides of the digits' config that make it train on the image folder."""
    custom = [{"name": f"own_{split}", "images": str(image_folder / split)} for split in ("train", "val")]
    crop = str([{"Resize": {"size": 16}}, {"CenterCrop": {"size": 16}}])
    options = ["DATASETS.CUSTOM", str(custom), "DATASETS.TRAIN", ("own_train",), "DATASETS.TEST", ("own_val",)]
    options += ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [128.0] * 3, "MODEL.PIXEL_STD", [64.0] * 3]
    options += ["INPUT.TRAIN_TRANSFORMS", crop, "INPUT.TEST_TRANSFORMS", crop, "OUTPUT_DIR", str(tmp_path / "run")]
    return [*options, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,), "SOLVER.IMS_PER_BATCH", 4]
