"""Rows at the size of EmojiLVIS: the method stays, thresholds stand where they stood in the tail."""

import pytest

from eql_d2.engine import load_config
from eql_d2.errors import UserError
from eql_d2.losses import METHODS
from eql_d2.modeling.loss_config import key_of
from eql_d2.reproduction.emoji import emoji_training
from eql_d2.reproduction.planned_runs import plan
from eql_d2.reproduction.recipes import recipe_of_row
from eql_d2.reproduction.tables import Training, find_rows
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def cfg_of(name):
    return recipe_of_row(find_rows(name)[1][0], "emoji").cfg


@pytest.mark.parametrize(("row", "largest"), [("r013", 10), ("r017", 100)])
def test_lambda_parts_rare_and_common_classes_as_on_lvis(row, largest):
    lambda_ = cfg_of(f"eql_t2/{row}").MODEL.LONG_TAIL.EQL.LAMBDA
    images = 800
    assert largest / images < lambda_ < (largest + 1) / images


def test_methods_and_their_keys_are_the_rows():
    assert cfg_of("eql_t2/r012").MODEL.LONG_TAIL.EQL.LAMBDA == 0
    assert not cfg_of("eql_t4/r024").MODEL.LONG_TAIL.EQL.EXCLUDE_BACKGROUND
    seesaw = cfg_of("seesaw_t5/r151")
    assert (seesaw.MODEL.LONG_TAIL.SEESAW.P, seesaw.MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER) == (0.2, False)
    assert cfg_of("seesaw_t7/r163").MODEL.ROI_BOX_HEAD.TEMPERATURE == 10
    assert cfg_of("seesaw_t1/r116").MODEL.ROI_MASK_HEAD.NAME == "NormedMaskRCNNConvUpsampleHead"
    assert cfg_of("seesaw_t1/r125").MODEL.ROI_HEADS.NAME == "LongTailCascadeROIHeads"
    assert cfg_of("eql_t5/r028").DATALOADER.SAMPLER_TRAIN == "ClassAwareTrainingSampler"
    # 1e-3 of 99,388 images are 99 of them, and so are 0.124 of 800.
    assert pytest.approx(0.124, abs=0.001) == cfg_of("seesaw_t1/r117").DATALOADER.REPEAT_THRESHOLD


def numbers_of(method):
    return {keyword: value for keyword, value in method.options.items() if isinstance(value, (int, float))}


@pytest.mark.parametrize("method", [method for method in METHODS.values() if method.predictor and numbers_of(method)])
def test_no_method_s_keys_are_forgotten(method):
    """As those of federated loss once were: a row's 7 classes silently became the default's 50."""
    keyword, default = next(iter(numbers_of(method).items()))
    key = f"MODEL.LONG_TAIL.{method.node}.{key_of(keyword)}"
    value = not default if isinstance(default, bool) else type(default)(default / 2)
    cfg = load_config("configs/LVISv1/official/mask_rcnn_R50_FPN/softmax.yaml", [key, str(value)])
    cfg.MODEL.ROI_BOX_HEAD.PREDICTOR = method.predictor
    overrides = emoji_training(Training("LVISv1/official/mask_rcnn_R50_FPN/softmax.yaml"), cfg).overrides
    assert key in overrides


def test_data_and_schedule_are_emoji_lvis_own():
    for name in ("eql_t1/r011", "seesaw_t1/r131", "eqlv2_open_images/r092", "bags_readme/r236"):
        cfg = cfg_of(name)
        assert cfg.DATASETS.TRAIN == ("emoji_lvis_demo_train",)
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.MODEL.RESNETS.DEPTH) == (1200, 4, 50)
    recipe = recipe_of_row(find_rows("seesaw_t9/r174")[1][0], "emoji")
    assert (recipe.cfg.SOLVER.MAX_ITER, recipe.first.cfg.SOLVER.MAX_ITER) == (300, 1200)
    assert recipe.cfg.MODEL.ROI_BOX_HEAD.PREDICTOR == "BAGSPredictor"
    assert recipe.first.cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler"


def test_rows_start_from_one_detector_of_other_classes():
    for name in ("eql_t1/r011", "seesaw_t1/r131"):
        table, rows = find_rows(name)
        runs, _ = plan(table, rows, [3, 4], ROOT / "output", "emoji")
        assert [(run.seed, run.stage) for run in runs] == [(1, 1), (3, 2), (4, 2)]
        assert runs[1].before is runs[2].before is runs[0]
        assert runs[0].recipe.cfg.DATASETS.TRAIN == ("emoji_lvis_pretrain_train",)
        assert runs[1].recipe.cfg.MODEL.WEIGHTS_EXCLUDE  # 240 classes are not 60
    recipe = recipe_of_row(find_rows("seesaw_t9/r174")[1][0], "emoji")
    assert recipe.first.first.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 240
    assert not recipe.cfg.MODEL.WEIGHTS_EXCLUDE  # the classifier of the first stage is what BAGS starts from


def test_rows_without_counterpart_say_why():
    with pytest.raises(UserError, match="its threshold function is made for LVIS's frequencies"):
        cfg_of("eql_t3/r021")
