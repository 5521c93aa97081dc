"""Three lines in somebody else's train_net.py: Detectron2's own trainer, loader and mapper train every method."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer

import eql_d2
from eql_d2.data.registration import register_custom_datasets
from eql_d2.engine.auto_values import auto_allowed, resolve_auto_values
from tests.conftest import ROOT


@pytest.mark.parametrize("predictor", ["EQLv2Predictor", "BAGSPredictor"])
def test_the_stock_trainer_trains(predictor, tiny_set, tmp_path):
    cfg = get_cfg()
    eql_d2.add_eql_d2_config(cfg)
    with auto_allowed(cfg):
        cfg.merge_from_file(str(ROOT / "tests" / "tiny.yaml"))
    with auto_allowed(cfg):
        cfg.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", "auto", "MODEL.LONG_TAIL.BAGS.BIN_EDGES", "auto"])
    cfg.DATASETS.CUSTOM = [
        {"name": "tiny_train", "annotations": str(tiny_set / "train.json"), "images": str(tiny_set)},
    ]
    cfg.merge_from_list(["MODEL.ROI_BOX_HEAD.PREDICTOR", predictor, "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()])
    cfg.OUTPUT_DIR = str(tmp_path)
    register_custom_datasets(cfg)
    resolve_auto_values(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6
    torch.manual_seed(0)
    trainer = DefaultTrainer(cfg)
    before = trainer.model.roi_heads.box_predictor.cls_score.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.roi_heads.box_predictor.cls_score.weight, before)


def test_configs_by_name_without_this_projects_engine():
    cfg = get_cfg()
    eql_d2.add_eql_d2_config(cfg)
    cfg.merge_from_file(eql_d2.model_zoo.get_config_file("LVISv1/official/mask_rcnn_R50_FPN/eql.yaml"))
    assert cfg.MODEL.ROI_BOX_HEAD.PREDICTOR == "EQLPredictor"
