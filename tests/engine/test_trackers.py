"""Trackers: what they get is what metrics.json gets; runs go on; mistakes are told before the first iteration."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from eql_d2.engine import LongTailTrainer
from eql_d2.engine.metrics_file import MetricsFile, WriteMetrics
from eql_d2.engine.trackers import TRACKERS, Tracker, check_trackers, table_rows
from eql_d2.errors import UserError
from tests.conftest import ROOT

RESULTS = {"bbox": {"AP": 12.5, "APr": float("nan")}, "segm": {"AP": 10.0}}


class Recorder(Tracker):
    """Keeps what it gets; fails when told to."""

    name, title = "recorder", "The recorder"

    def __init__(self, cfg, fails=False):
        super().__init__(cfg)
        self.fails, self.events = fails, []

    @classmethod
    def check(cls, cfg):
        """Nothing can be wrong."""

    def _begin(self, run_id):
        self.events.append(("begin", run_id))
        return run_id or "new"

    def _send(self, records):
        if self.fails:
            raise ConnectionError("no answer\nat all")
        self.events += [("record", record) for record in records]

    def _attach_table(self, rows):
        self.events.append(("table", rows))

    def _end(self, whole):
        self.events.append(("end", whole))


class Training:
    """As much of a trainer as the hook looks at."""

    def __init__(self, storage, start, end, results=None):
        self.storage, self.start_iter, self.max_iter, self.iter = storage, start, end, start
        self._last_eval_results = results


def run(cfg, tracker, start, stop, end, results=None):
    """Iterations [start, stop) of a training of ``end``, of which each puts its number."""
    with EventStorage(start) as storage:
        hook = WriteMetrics([MetricsFile(f"{cfg.OUTPUT_DIR}/metrics.json"), tracker])
        hook.trainer = Training(storage, start, end, results)
        hook.before_train()
        for iteration in range(start, stop):
            storage.iter = hook.trainer.iter = iteration
            storage.put_scalar("loss", float(iteration), smoothing_hint=False)
            hook.after_step()
        if stop == end:
            hook.trainer.iter = end
        hook.after_train()


def lines_of(cfg):
    return [json.loads(line) for line in Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()]


def records_of(tracker):
    return [record for kind, record in tracker.events if kind == "record"]


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    (tmp_path / "run").mkdir(exist_ok=True)
    return tiny_cfg


def test_it_gets_the_lines_of_metrics_json_and_the_table(cfg):
    tracker = Recorder(cfg)
    run(cfg, tracker, 0, 50, 50, RESULTS)
    assert records_of(tracker) == lines_of(cfg) and len(lines_of(cfg)) == 3
    assert tracker.events[0] == ("begin", None) and tracker.events[-1] == ("end", True)
    assert [row[:2] for row in dict(tracker.events)["table"]] == [["bbox", "AP"], ["bbox", "APr"], ["segm", "AP"]]


def test_a_stopped_run_goes_on_in_the_same_one(cfg):
    first, second, anew = Recorder(cfg), Recorder(cfg), Recorder(cfg)
    run(cfg, first, 0, 45, 60)  # stopped; the checkpoint is of iteration 30
    assert first.events[-1] == ("end", False)
    run(cfg, second, 30, 60, 60)
    assert second.events[0] == ("begin", "new")
    assert [record["iteration"] for record in records_of(second)] == [39, 59]
    run(cfg, anew, 0, 20, 20)
    assert anew.events[0] == ("begin", None)


def test_a_tracker_that_fails_ends_with_one_warning(cfg, caplog):
    tracker = Recorder(cfg, fails=True)
    run(cfg, tracker, 0, 60, 60, RESULTS)
    assert [record.message for record in caplog.records if record.name == "eql_d2.engine.trackers"] == [
        "The recorder gets no more values of this run: no answer"
    ]
    assert tracker.events == [("begin", None)]
    assert len(lines_of(cfg)) == 3


def test_rows_of_several_datasets():
    assert list(table_rows({"a": {"bbox": {"AP": 1}}, "b": {"bbox": {"AP": 2}}})) == [
        ["a/bbox", "AP", 1.0],
        ["b/bbox", "AP", 2.0],
    ]


def test_names_and_packages_are_checked(tiny_cfg, monkeypatch):
    tiny_cfg.ENGINE.TRACKERS = ("wandb", "neptune")
    monkeypatch.setattr(TRACKERS["wandb"], "check", lambda cfg: None)
    with pytest.raises(UserError, match=r"names 'neptune'; it may name wandb and mlflow\.$"):
        check_trackers(tiny_cfg)
    monkeypatch.undo()
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        tiny_cfg.ENGINE.TRACKERS = (name,)
        with pytest.raises(UserError, match=rf"{name} needs {name}; install it: pip install 'eql_d2\[trackers\]'"):
            check_trackers(tiny_cfg)


def by_the_tool(folder, *overrides, **environment):
    """A training as a user starts it, in a process of its own; its error's one line."""
    own = {"OMP_NUM_THREADS": "1", "HOME": str(folder), **environment}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--config-file", ROOT / "tests" / "tiny.yaml"]
    done = subprocess.run(
        [*command, "OUTPUT_DIR", "run", *overrides],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **own},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_missing_login_is_told_before_anything_is_built(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'eql_d2[trackers]'")
    told = by_the_tool(tmp_path, "ENGINE.TRACKERS", "('wandb',)")
    assert told.startswith("error: Weights & Biases cannot track the run (No API key configured.")
    assert told.endswith("; log in by `wandb login` or WANDB_API_KEY, or set WANDB_MODE=offline.")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told(tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'eql_d2[trackers]'")
    told = by_the_tool(tmp_path, "ENGINE.TRACKERS", "('mlflow',)", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert told.startswith("error: MLflow cannot track the run (") and "MLFLOW_TRACKING_URI" in told
    assert not (tmp_path / "run").exists()


def train(cfg, resume=False):
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def short(cfg, monkeypatch, folder, tracker):
    """A training of four steps that is stopped after two, and goes on."""
    monkeypatch.chdir(folder)
    cfg.ENGINE.TRACKERS = (tracker,)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD = 2, (), 2
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "config.yaml").write_text(cfg.dump())
    check_trackers(cfg)
    train(cfg)
    cfg.SOLVER.MAX_ITER = 4
    return train(cfg, resume=True)


def records_in(path):
    """What a file of an offline run of W&B holds, in the form of LevelDB's logs."""
    content, place, parts = path.read_bytes(), 7, b""  # after the head
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:  # the rest of a block is empty
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_wandb_offline(tiny_cfg, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'eql_d2[trackers]'")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = short(tiny_cfg, monkeypatch, tmp_path, "wandb")
    history, configs, ids = {}, [], set()
    for path in sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in records_in(path):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                configs += [(update.key, update.value_json) for update in record.run.config.update]
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                history.setdefault(record.history.step.num, {})[name] = json.loads(item.value_json)
    assert ids == {json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]}
    solver = next(json.loads(value) for key, value in configs if key == "SOLVER")
    assert solver["BASE_LR"] == tiny_cfg.SOLVER.BASE_LR
    for line in lines_of(tiny_cfg):
        expected = dict(line)
        sent = history[expected.pop("iteration")]
        assert {name: value for name, value in expected.items() if value == value}.items() <= sent.items()
    assert trainer._last_eval_results["bbox"]["AP"] in [of_step.get("bbox/AP") for of_step in history.values()]
    assert any(of_step.get("final_metrics/nrows") == 26 for of_step in history.values())
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/final_metrics*.json"))


@pytest.mark.slow
def test_mlflow_without_a_server(tiny_cfg, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'eql_d2[trackers]'")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    trainer = short(tiny_cfg, monkeypatch, tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("eql_d2")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED" and kept.info.run_name.endswith("/run")
    assert kept.data.params["SOLVER.BASE_LR"] == str(tiny_cfg.SOLVER.BASE_LR)
    for line in lines_of(tiny_cfg):
        expected = dict(line)
        iteration = expected.pop("iteration")
        for name, value in expected.items():
            history = client.get_metric_history(kept.info.run_id, name.replace("@", "_"))  # which MLflow refuses
            sent = {metric.step: metric.value for metric in history}
            assert sent[iteration] == pytest.approx(value, nan_ok=True), name
    table = client.download_artifacts(kept.info.run_id, "final_metrics.csv")
    assert f"bbox,AP,{trainer._last_eval_results['bbox']['AP']}\n" in Path(table).read_text()
    assert Path(client.download_artifacts(kept.info.run_id, "config.yaml")).read_text().startswith("CUDNN_BENCHMARK")
