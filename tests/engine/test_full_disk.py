"""A full disk costs what does not fit on it, and is told in a line or two; real limits and real full devices."""

import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from eql_d2.engine.metrics_file import MetricsFile, TensorboardFile
from eql_d2.engine.run_start import LogFailure
from eql_d2.errors import UserError
from tests.conftest import ROOT

FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def tensorboard_on_a_full_disk(folder):
    """Many values, of which the disk takes the first; in a process of its own."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    writer = TensorboardFile(str(folder))
    with EventStorage() as storage:
        for storage.iter in range(2000):
            storage.put_scalars(**{f"loss_{i}": 0.5 for i in range(10)})
            if storage.iter % 20 == 0:
                writer.write()
    writer.close()


def test_tensorboard_ends_with_one_warning(tmp_path):
    errors = tmp_path / "stderr"
    process = os.fork()
    if not process:
        status = 1
        try:
            os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            logging.getLogger("eql_d2").handlers = [logging.StreamHandler(sys.stderr)]  # and not those of other tests
            tensorboard_on_a_full_disk(tmp_path / "run")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    (line,) = errors.read_text().splitlines()
    assert line == "TensorBoard gets no more values of this run: File too large."


@needs_full_device
def test_metrics_on_a_full_disk_end_the_run_with_a_sentence(tmp_path):
    (tmp_path / "metrics.json").symlink_to(FULL)
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        with pytest.raises(UserError, match=r"metrics.json cannot be written \(No space left on device\); free some"):
            MetricsFile(tmp_path / "metrics.json").write()


@needs_full_device
def test_a_log_on_a_full_disk_is_told_once(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to(FULL)
    handler = logging.FileHandler(tmp_path / "log.txt")
    handler.handleError = LogFailure(handler).tell
    logger = logging.Logger("of this test")
    logger.addHandler(handler)
    for number in range(100):
        logger.info("line %d", number)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/log.txt cannot be written (") and "No space left" in line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("kilobytes", [8, 16, 64, 400])
def test_a_run_on_a_full_disk_ends_with_a_sentence(tiny_cfg, tmp_path, kilobytes):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
        command = [sys.executable, "tools/train_net.py", "--config-file", tmp_path / "config.yaml"]
        done = subprocess.run([*command, "OUTPUT_DIR", folder], cwd=ROOT, capture_output=True, text=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert lines[-1].startswith("error: ") and "No space left on device" in lines[-1] and len(lines) < 12, done.stderr
