"""Conversion: outputs equal those of the source's layout, and every tensor is accounted for."""

import pytest
import torch
from detectron2.structures import Boxes

from eql_d2.conversion import convert, prove, save
from eql_d2.engine import load_config
from eql_d2.engine.description import read_description
from eql_d2.engine.predictor import Predictor
from eql_d2.errors import UserError
from tests.conftest import ROOT, make_tiny_cfg
from tests.conversion.synthetic import FC, FPN, MASK, K, mmdet, resnet, write

SMALL = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
         "MODEL.ROI_HEADS.NUM_CLASSES", K, "MODEL.ROI_BOX_HEAD.FC_DIM", FC, "MODEL.ROI_MASK_HEAD.CONV_DIM", MASK,
         "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.FPN.OUT_CHANNELS", FPN, "DATASETS.TRAIN", ("tiny_train",), "DATASETS.TEST", ("tiny_val",)]
CASCADE = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
BINS = ["MODEL.LONG_TAIL.BAGS.BIN_EDGES", (60, 200)]


@pytest.fixture
def config(tiny_set, tmp_path):
    def build(predictor, *overrides):
        tiny = make_tiny_cfg(tiny_set, tmp_path / "run")
        cfg = load_config(str(ROOT / "configs" / "Base-Mask-RCNN-FPN.yaml"))
        cfg.DATASETS.CUSTOM, cfg.OUTPUT_DIR = tiny.DATASETS.CUSTOM, tiny.OUTPUT_DIR
        cfg.merge_from_list([*SMALL, "MODEL.ROI_BOX_HEAD.PREDICTOR", f"{predictor}Predictor", *overrides])
        return cfg

    return build


def with_state(tensors, **state):
    return tensors | {f"roi_head.bbox_head.loss_cls.{name}": value for name, value in state.items()}


def with_scales(tensors):
    return tensors | {"roi_head.bbox_head.fc_cls.weight_scaler": torch.rand(K + 1, 1) - 0.3}


NORMED = ["MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", True]
NORMED_MASK = ["MODEL.ROI_MASK_HEAD.NAME", "NormedMaskRCNNConvUpsampleHead"]
MODELS = {
    "mmdet softmax": ("mmdet", "Softmax", [], lambda: mmdet(K + 1)),
    "mmdet bottleneck": ("mmdet", "Softmax", ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256],
                         lambda: mmdet(K + 1, depth=50)),
    "mmdet seesaw": ("mmdet", "Seesaw", NORMED,
                     lambda: with_state(mmdet(K + 2), cum_samples=torch.arange(K + 1.0))),
    "mmdet seesaw normed mask": ("mmdet", "Seesaw", NORMED + NORMED_MASK, lambda: mmdet(K + 2)),
    "mmdet seesaw cascade": ("mmdet", "Seesaw", NORMED + NORMED_MASK + CASCADE,
                             lambda: mmdet(K + 2, stages=3, agnostic=True)),
    "mmdet eql": ("mmdet", "EQL", [], lambda: mmdet(K)),
    "eqlv2": ("eqlv2", "EQLv2", [], lambda: with_state(
        mmdet(K + 1), pos_grad=torch.rand(K), neg_grad=torch.rand(K), pos_neg=torch.rand(K))),
    "eqlv2 bags": ("eqlv2", "BAGS", BINS, lambda: mmdet(K + 5)),
    "eqlv2 lws": ("eqlv2", "Softmax", ["MODEL.ROI_BOX_HEAD.SCALED_CLASSIFIER", True],
                  lambda: with_scales(mmdet(K + 1))),
    "bags softmax": ("bags", "Softmax", [], lambda: mmdet(K + 1, first=True)),
    "bags": ("bags", "BAGS", BINS, lambda: mmdet(K + 5, first=True)),
    "bags faster": ("bags", "BAGS", [*BINS, "MODEL.MASK_ON", False], lambda: mmdet(K + 5, first=True, masks=False)),
    "bags cascade": ("bags", "Softmax", CASCADE, lambda: mmdet(K + 1, first=True, stages=3, agnostic=True)),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_those_of_the_source(name, config, tmp_path):
    source, predictor, overrides, build = MODELS[name]
    torch.manual_seed(1)
    conversion, file = convert(source, write(tmp_path, build()), config(predictor, *overrides))
    differences = prove(conversion, file, source)
    assert max(differences.values()) < 1e-5
    assert {"pixels", "p6", "scores", "RPN deltas of p2"} - set(differences) in (set(), {"scores"})
    assert all("num_batches_tracked" in name for name in conversion.not_needed)
    assert len(conversion.used) + len(conversion.not_needed) == len(file.tensors)
