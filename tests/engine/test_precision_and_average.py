"""bfloat16 on the CPU, the moving average of a model, the best checkpoint and how many are kept."""

import json
from pathlib import Path

import pytest
import torch

from eql_d2.engine import LongTailTrainer
from eql_d2.engine.kept_checkpoints import KeepBest
from eql_d2.engine.precision import cast_forward, check_precision
from eql_d2.engine.weight_average import AverageWeights
from eql_d2.errors import UserError


def trained(cfg, resume=False):
    """A trainer that has trained."""
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def model_of(folder, name):
    return torch.load(Path(folder, name), weights_only=True)["model"]


def test_bfloat16_trains_on_the_cpu_and_casts_nothing_else(tiny_cfg, monkeypatch):
    tiny_cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16", "SOLVER.MAX_ITER", 2])
    tiny_cfg.DATASETS.TEST = ()
    check_precision(tiny_cfg)
    trainer = LongTailTrainer(tiny_cfg)
    dtypes = []
    trainer.model.roi_heads.box_predictor.cls_score.register_forward_hook(lambda *a: dtypes.append(a[2].dtype))
    trainer.train()
    assert dtypes == [torch.bfloat16, torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())


def test_autocast_ends_with_the_forward_pass_and_with_an_error():
    class Model(torch.nn.Linear):
        def forward(self, x):
            if x.sum() < 0:
                raise ValueError
            return super().forward(x)

    model = Model(2, 2)
    cast_forward(model, "cpu", torch.bfloat16)
    assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    with pytest.raises(ValueError):
        model(-torch.ones(1, 2))
    assert not torch.is_autocast_enabled("cpu")
    assert model.eval()(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "sentence"),
    [("float16", "needs a GPU; set SOLVER.AMP.DTYPE to bfloat16"), ("half", "must be float16 or bfloat16")],
)
def test_a_precision_that_does_not_fit(tiny_cfg, dtype, sentence):
    tiny_cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype])
    with pytest.raises(UserError, match=sentence):
        check_precision(tiny_cfg)


def test_the_average_by_hand():
    """m = d m + (1 - d) w, from the weights after the first step; buffers too."""
    model = torch.nn.BatchNorm1d(1)
    hook = AverageWeights(model, decay=0.75)
    expected = None
    for value in (1.0, 3.0, -2.0):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(2 * value)
        hook.after_step()
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert hook.model.weight.item() == pytest.approx(expected)
    assert hook.model.running_mean.item() == pytest.approx(2 * expected)


@pytest.mark.slow
def test_average_best_and_limit_are_evaluated_checkpointed_and_resumed_exactly(tiny_cfg, tmp_path):
    """EQLv2 collects gradients, of which there is an average too."""
    options = ["MODEL.ROI_BOX_HEAD.PREDICTOR", "EQLv2Predictor", "SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.6]
    options += ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.MAX_CHECKPOINTS", 2]
    options += ["TEST.EVAL_PERIOD", 2, "SOLVER.BEST_METRIC", "bbox/AP", "SEED", 3]
    tiny_cfg.merge_from_list(options)
    whole = trained(tiny_cfg)
    folder = Path(tiny_cfg.OUTPUT_DIR)
    names = {path.name for path in folder.glob("model_*.pth")}
    assert names == {
        "model_0000004.pth",
        "model_0000005.pth",
        "model_final.pth",
        "model_final_ema.pth",
        "model_best.pth",
    }
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    average, final = model_of(folder, "model_final_ema.pth"), model_of(folder, "model_final.pth")
    collected = [name for name in final if name.startswith("roi_heads.box_predictor.loss.")]
    assert collected and list(average) == list(final)
    assert any(not torch.equal(average[name], final[name]) for name in collected)
    results = whole._last_eval_results
    assert (folder / "inference_EMA" / "tiny_val" / "lvis_instances_results.json").exists()
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert any("bbox_EMA/AP" in line for line in lines) and results
    cfg = tiny_cfg.clone()
    cfg.MODEL.WEIGHTS = str(folder / "model_final_ema.pth")
    assert "bbox" in LongTailTrainer.test(cfg, LongTailTrainer.build_trained_model(cfg))

    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path / "stopped"), ""
    stopped = LongTailTrainer(cfg)
    stopped.resume_or_load(resume=False)
    stopped.max_iter = 3
    stopped.train()
    for name in ("model_final_ema.pth", "model_final.pth"):
        Path(cfg.OUTPUT_DIR, name).unlink()
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000002.pth")
    trained(cfg, resume=True)
    for name, expected in (("model_final_ema.pth", average), ("model_final.pth", final)):
        resumed = model_of(cfg.OUTPUT_DIR, name)
        assert all(torch.equal(resumed[key], value) for key, value in expected.items())


def test_a_decay_and_a_metric_that_do_not_fit(tiny_cfg):
    with pytest.raises(UserError, match=r"SOLVER.EMA.DECAY is 1.0; it must lie strictly between"):
        AverageWeights(torch.nn.Linear(1, 1), 1.0)
    with pytest.raises(UserError, match=r"SOLVER.BEST_METRIC is segm/AP, but TEST.EVAL_PERIOD is 0"):
        KeepBest(0, None, "segm/AP")
    tiny_cfg.SOLVER.MAX_CHECKPOINTS = -1
    with pytest.raises(UserError, match=r"SOLVER.MAX_CHECKPOINTS is -1; set it to 1 or more"):
        LongTailTrainer(tiny_cfg)
