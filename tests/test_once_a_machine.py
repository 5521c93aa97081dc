"""What the first process of a machine does for the others; a failed download is told once."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from detectron2.utils import comm

from eql_d2.engine.checkpoint import fetch_weights
from eql_d2.errors import ToldByAnother, UserError
from eql_d2.once_a_machine import first_on_each_machine
from tests.conftest import ROOT


def find_or_make(path):
    """As a download into a cache."""
    if not path.exists():
        path.write_text(f"made by {comm.get_rank()}")
    return path.read_text()


def fail():
    raise UserError("No such address.")


def in_two_processes(folder):
    assert first_on_each_machine(lambda: find_or_make(folder / "file")) == "made by 0"
    expected = UserError if comm.get_rank() == 0 else ToldByAnother
    with pytest.raises(UserError, match=r"^No such address\.$") as error:
        first_on_each_machine(fail)
    assert type(error.value) is expected


def test_the_first_process_acts_for_the_others(two_processes, tmp_path):
    two_processes(in_two_processes, tmp_path)


def test_a_single_process_acts(tmp_path):
    assert first_on_each_machine(lambda: find_or_make(tmp_path / "file")) == "made by 0"
    with pytest.raises(UserError, match="No such address"):
        first_on_each_machine(fail)


def test_weights_that_cannot_be_fetched():
    fetch_weights("/no/address.pth")  # a file that is missing is told where it is read
    with pytest.raises(
        UserError, match=r"^Weights http://127\.0\.0\.1:9/x\.pkl cannot be fetched \(.*refused.*\); check"
    ):
        fetch_weights("http://127.0.0.1:9/x.pkl")


@pytest.mark.slow
def test_two_processes_of_a_cluster_tell_a_failed_download_once(tiny_set, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sets = [
        {"name": f"far_{split}", "annotations": str(tiny_set / f"{split}.json"), "images": str(tiny_set)}
        for split in ("train", "val")
    ]
    options = ["MODEL.WEIGHTS", "http://127.0.0.1:9/weights.pkl", "OUTPUT_DIR", str(tmp_path / "run")]
    options += ["DATASETS.CUSTOM", str(sets), "DATASETS.TRAIN", "('far_train',)", "DATASETS.TEST", "('far_val',)"]
    config = ["--config-file", str(ROOT / "tests" / "tiny.yaml")]
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        place |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": ROOT}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        command = [sys.executable, Path(ROOT, "tools", "train_net.py"), *config, *options]
        processes.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
    try:
        told = [process.communicate(timeout=280)[1] for process in processes]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
    errors = [line for text in told for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "weights.pkl cannot be fetched" in errors[0], told
    assert "Traceback" not in "".join(told)
    assert [process.returncode for process in processes] == [1, 1]
    assert not (tmp_path / "run").exists()
