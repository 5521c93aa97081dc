"""Lazy configs: the twin of a YAML config gives the same weights; mistakes are told; what is shipped builds."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from eql_d2.data.category_counts import dataset_counts
from eql_d2.data.registration import register_lvis_format
from eql_d2.engine import LongTailTrainer, default_argument_parser, setup
from eql_d2.engine.lazy_config import engine_config, load_lazy_config
from eql_d2.engine.lazy_trainer import LazyTrainer, setup_lazy
from eql_d2.errors import UserError
from eql_d2.losses import build_loss
from eql_d2.modeling import LongTailPredictor
from tests.conftest import ROOT

LAZY = sorted(path for path in (ROOT / "configs" / "lazy").rglob("*.py") if path.parent.name != "common")
SMALL = [
    "model.roi_heads.num_classes=6",
    "model.roi_heads.batch_size_per_image=16",
    "model.proposal_generator.post_nms_topk=[20,20]",
    "model.proposal_generator.pre_nms_topk=[50,50]",
    "model.roi_heads.box_predictor.loss.lambda_=0.333",
    "dataloader.train.names=twin_train",
    "dataloader.test.name=twin_val",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.sampler=RepeatFactorTrainingSampler",
    "dataloader.train.repeat_threshold=0.3",
    "train.device=cpu",
    "train.max_iter=20",
    "train.checkpointer.period=10",
    "train.watch_period=5",
    "lr_multiplier.scheduler.milestones=[15]",
]
SMALL_YAML = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "6", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "50", "MODEL.RPN.PRE_NMS_TOPK_TEST", "50"),
    *("MODEL.LONG_TAIL.EQL.LAMBDA", "0.333", "DATASETS.TRAIN", "('twin_train',)", "DATASETS.TEST", "('twin_val',)"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "20", "SOLVER.CHECKPOINT_PERIOD", "10", "SOLVER.STEPS", "(15,)"),
    *("DATALOADER.NUM_WORKERS", "0", "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    *("DATALOADER.REPEAT_THRESHOLD", "0.3", "ENGINE.WATCH_PERIOD", "5"),
]


@pytest.fixture
def twin_sets(tiny_set):
    for split in ("train", "val"):
        register_lvis_format(f"twin_{split}", tiny_set / f"{split}.json", tiny_set)


def arguments(config_file, *options):
    return default_argument_parser().parse_args(["--config-file", str(config_file), *options])


def small(folder, *overrides, config="lazy/EmojiLVIS/demo_eql.py", options=()):
    """A small lazy training, set up."""
    return setup_lazy(arguments(config, *options, *SMALL, f"train.output_dir={folder}", *overrides))


def weights_of(folder):
    return torch.load(Path(folder) / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.usefixtures("twin_sets")
def test_a_lazy_config_and_its_yaml_twin_give_the_same_weights(tmp_path):
    """To the last bit, evaluation included; the schedule's length is that of 20 steps in both."""
    start = tmp_path / "start.pth"
    yaml_cfg = setup(arguments("EmojiLVIS/demo_eql.yaml", *SMALL_YAML, "OUTPUT_DIR", str(tmp_path / "first")))
    torch.save({"model": LongTailTrainer.build_model(yaml_cfg).state_dict()}, start)
    options = ["MODEL.WEIGHTS", str(start), "OUTPUT_DIR", str(tmp_path / "yaml"), "SOLVER.WARMUP_ITERS", "10"]
    by_yaml = LongTailTrainer(setup(arguments("EmojiLVIS/demo_eql.yaml", *SMALL_YAML, *options)))
    by_yaml.resume_or_load(resume=False)
    by_yaml.train()
    schedule = ["lr_multiplier.warmup_length=0.5"]
    lazily = LazyTrainer(small(tmp_path / "lazy", f"train.init_checkpoint={start}", *schedule))
    lazily.resume_or_load(resume=False)
    lazily.train()
    one, other = weights_of(tmp_path / "yaml"), weights_of(tmp_path / "lazy")
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], value) for name, value in torch.load(start)["model"].items())
    assert str(by_yaml._last_eval_results) == str(lazily._last_eval_results) != "OrderedDict()"
    for name in (
        "ledger.json",
        "class_gradients.csv",
        "metrics.json",
        "inference/twin_val/lvis_instances_results.json",
    ):
        assert (tmp_path / "lazy" / name).exists(), name

    # Stopped after 10 steps and resumed, it ends where it ended before.
    (tmp_path / "lazy" / "last_checkpoint").write_text("model_0000009.pth")
    resumed = LazyTrainer(small(tmp_path / "lazy", *schedule, options=["--resume"]))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 10
    resumed.train()
    again = weights_of(tmp_path / "lazy")
    assert all(torch.equal(other[name], again[name]) for name in other)


@pytest.mark.usefixtures("twin_sets")
def test_the_engine_reads_what_the_config_says(tmp_path):
    node = engine_config(load_lazy_config("lazy/EmojiLVIS/demo_eql.py", [*SMALL, f"train.output_dir={tmp_path}"]))
    assert (node.DATASETS.TRAIN, node.DATASETS.TEST) == (("twin_train",), ("twin_val",))
    assert (node.SOLVER.MAX_ITER, node.SOLVER.CHECKPOINT_PERIOD, node.SOLVER.IMS_PER_BATCH) == (20, 10, 2)
    assert (node.SOLVER.BASE_LR, node.SOLVER.MOMENTUM, node.SOLVER.WEIGHT_DECAY) == (0.03, 0.9, 0.0001)
    assert node.MODEL.ROI_BOX_HEAD.PREDICTOR == "EQLPredictor" and node.SEED == 1


@pytest.mark.parametrize("path", LAZY, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_config_is_read(path):
    pytest.importorskip("timm") if "ViTDet" in str(path) else None
    if "ViTDet" in str(path):
        pytest.importorskip("detectron2.modeling.backbone.vit", reason="Detectron2 v0.6 has no ViT")
    cfg = load_lazy_config(str(path))
    node = engine_config(cfg)
    assert (60 if "Emoji" in str(path) else 1203) == node.MODEL.ROI_HEADS.NUM_CLASSES
    method = "softmax" if "Base" in path.stem else path.stem.removeprefix("demo_")
    heads = cfg.model.roi_heads
    predictors = [heads.box_predictor] if "box_predictor" in heads else heads.box_predictors
    assert [predictor.loss.method for predictor in predictors] == [method] * len(predictors)


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
@pytest.mark.parametrize("method", ["eql", "eqlv2", "seesaw", "bags", "federated"])
def test_predictors_of_lvis_build(kind, method):
    """Without the backbone, which takes long."""
    heads = load_lazy_config(f"lazy/LVISv1/{kind}_R50_FPN/{method}.py").model.roi_heads
    predictors = [heads.box_predictor] if "box_predictor" in heads else heads.box_predictors
    for predictor in map(instantiate, predictors):
        assert isinstance(predictor, LongTailPredictor) and predictor.num_classes == 1203
        assert type(predictor.loss) is type(build_loss(method, 1203, dataset_counts("lvis_v1_train")))


# --- bad input ----------------------------------------------------------------------------------------------


def predictor_of(**changes):
    cfg = load_lazy_config("lazy/EmojiLVIS/demo_eql.py", SMALL)
    for key, value in changes.items():
        cfg.model.roi_heads.box_predictor[key] = value
    return cfg


@pytest.mark.usefixtures("twin_sets")
def test_a_predictor_without_a_loss():
    with pytest.raises(UserError, match=r"LongTailPredictor has no loss; give it one, as loss=L\(build_loss\)"):
        instantiate(predictor_of(loss=None).model.roi_heads.box_predictor)


@pytest.mark.usefixtures("twin_sets")
def test_a_loss_of_another_number_of_classes():
    loss = L(build_loss)(method="softmax", num_classes=80)
    with pytest.raises(UserError, match="num_classes is 6, but its SoftmaxCrossEntropy is made for 80 classes"):
        instantiate(predictor_of(loss=loss).model.roi_heads.box_predictor)


@pytest.mark.usefixtures("twin_sets")
def test_calibration_takes_counts_by_the_name_of_a_dataset():
    calibration = {"norcal_gamma": 0.5, "image_counts": L(dataset_counts)(dataset_names="twin_train")}
    predictor = instantiate(predictor_of(calibration=calibration).model.roi_heads.box_predictor)
    assert predictor.calibration.image_counts.tolist() == list(dataset_counts("twin_train").image_counts)


@pytest.mark.usefixtures("twin_sets")
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.roi_heads.box_predictor.loss.lambda_=2", "The model cannot be built: lambda_ is 2"),
        ("model.roi_heads.box_predictor.image_level_labels=True", "dataloader.train.mapper has not"),
        ("dataloader.train.sampler=Nothing", "SAMPLER_TRAIN is 'Nothing'"),
        (
            "lr_multiplier.scheduler.milestones=[20]",
            "^lr_multiplier, which has to suit train.max_iter, cannot be b",
        ),
        (
            "+dataloader.train.copy_paste={hidden_areas:3}",
            "copy_paste has no option 'hidden_areas'",
        ),
    ],
)
def test_a_value_that_does_not_fit(tmp_path, override, sentence):
    with pytest.raises(Exception, match=sentence) as raised:
        LazyTrainer(small(tmp_path / "run", override))
    assert isinstance(raised.value, (UserError, AssertionError, KeyError))


@pytest.mark.parametrize(
    ("config", "options", "sentence"),
    [
        ("nothing.py", [], "Config file nothing.py does not exist"),
        ("EmojiLVIS/demo_eql.yaml", [], "is no lazy config, which is a Python file"),
        ("lazy/EmojiLVIS/demo_eql.py", ["train.max_iter=["], "do not fit"),
        ("lazy/EmojiLVIS/demo_eql.py", ["dataloader.train.names=nothing"], "'nothing' is not registered"),
        (
            "lazy/EmojiLVIS/demo_eql.py",
            [*SMALL, "train.init_checkpoint=", "--eval-only"],
            "train.init_checkpoint, or add --resume",
        ),
        (
            "lazy/EmojiLVIS/demo_eql.py",
            [*SMALL, "train.output_dir=/dev/null/run"],
            r"train.output_dir /dev/null/run cannot be written \(Not a directory\); set another",
        ),
    ],
)
def test_mistakes_before_the_start(config, options, sentence, tmp_path, twin_sets):
    opts = [option for option in options if not option.startswith("--")]
    flags = [option for option in options if option.startswith("--")]
    folder = [f"train.output_dir={tmp_path}"] if config.endswith("py") else []
    with pytest.raises(UserError, match=sentence):
        setup_lazy(arguments(config, *flags, *folder, *opts))


def test_a_config_that_lacks_a_part(tmp_path):
    (tmp_path / "half.py").write_text("model = dict()\noptimizer = dict()\n")
    with pytest.raises(UserError, match=r"half.py has no 'lr_multiplier'; see configs/lazy"):
        load_lazy_config(str(tmp_path / "half.py"))
