"""The config of a detector as small as the synthetic checkpoints."""

import pytest

from eql_d2.engine import load_config
from tests.conftest import ROOT, make_tiny_cfg
from tests.conversion.synthetic import FC, FPN, MASK, K

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.FPN.OUT_CHANNELS", FPN, "MODEL.ROI_HEADS.NUM_CLASSES", K, "MODEL.ROI_BOX_HEAD.FC_DIM", FC),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", MASK, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
    *("DATASETS.TRAIN", ("tiny_train",), "DATASETS.TEST", ("tiny_val",)),
]


@pytest.fixture
def config(tiny_set, tmp_path):
    """Builds the config of a predictor, with KEY VALUE overrides."""

    def build(predictor, *overrides):
        tiny = make_tiny_cfg(tiny_set, tmp_path / "run")
        cfg = load_config(str(ROOT / "configs" / "Base-Mask-RCNN-FPN.yaml"))
        cfg.DATASETS.CUSTOM, cfg.OUTPUT_DIR = tiny.DATASETS.CUSTOM, tiny.OUTPUT_DIR
        cfg.merge_from_list([*SMALL, "MODEL.ROI_BOX_HEAD.PREDICTOR", f"{predictor}Predictor", *overrides])
        return cfg

    return build
