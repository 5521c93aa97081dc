"""Results on disk: parts of processes become one file, and what an interrupted run has left never mixes in."""

import json
import logging

import pytest
from detectron2.utils import comm

from eql_d2.errors import UserError
from eql_d2.evaluation.results.parts import ResultParts
from tests.evaluation.predictions import evaluate, noisy_predictions

NAME = "lvis_instances_results.json"


def some_results(start, count):
    return [{"image_id": start, "category_id": 3, "score": 0.1 * i, "bbox": [1.5, 2.0, 3.0, 4.0]} for i in range(count)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_process(tmp_path):
    parts = ResultParts(tmp_path / "new" / NAME)
    written = []
    for number, count in enumerate([3, 0, 1, 2]):
        results = some_results(number, count)
        parts.write(results)
        written += results
    assert parts.join(distributed=False) == tmp_path / "new" / NAME
    assert json.loads((tmp_path / "new" / NAME).read_bytes()) == written
    assert names(tmp_path / "new") == [NAME]


def test_no_results_make_an_empty_list(tmp_path):
    ResultParts(tmp_path / NAME).join(distributed=False)
    assert json.loads((tmp_path / NAME).read_bytes()) == []
    assert names(tmp_path) == [NAME]


def test_what_an_interrupted_run_has_left(tmp_path):
    interrupted = ResultParts(tmp_path / NAME)
    interrupted.write(some_results(1, 5000))
    interrupted._file.flush()
    with open(interrupted._part, "r+b") as file:
        file.truncate(interrupted._part.stat().st_size - 7)  # killed while it wrote
    again = ResultParts(tmp_path / NAME)
    again.write(some_results(2, 2))
    again.join(distributed=False)
    assert json.loads((tmp_path / NAME).read_bytes()) == some_results(2, 2)
    assert names(tmp_path) == [NAME]


def test_a_new_start_deletes_its_own_part_and_leaves_the_last_file(tmp_path):
    (tmp_path / NAME).write_text("[]")
    parts = ResultParts(tmp_path / NAME)
    parts.write(some_results(1, 5))
    assert len(names(tmp_path)) == 2
    parts.discard()
    assert names(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_text() == "[]"


@pytest.mark.parametrize("other", [("lvis_instances_results.json.part-1-b", 100), None])
def test_parts_out_of_sight(tmp_path, caplog, monkeypatch, other):
    """As where a second machine has an OUTPUT_DIR of its own: no file that lacks results, and nothing is deleted."""
    parts = ResultParts(tmp_path / NAME)
    parts.write(some_results(1, 5))
    monkeypatch.setattr(comm, "gather", lambda part, dst: [part, other])
    with caplog.at_level(logging.WARNING):
        joined = parts.join(distributed=True)
    if other is None:  # a process without results has no part
        assert json.loads(joined.read_bytes()) == some_results(1, 5)
        assert not caplog.records
    else:
        assert joined is None
        assert names(tmp_path) == [parts._part.name]
        assert "several machines have to share OUTPUT_DIR" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path, tiny_cfg):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=rf"file/out/{NAME} cannot be written \(Not a directory\); .* another OUTPUT_DIR"
    ):
        evaluate("tiny_val", noisy_predictions("tiny_val"), output_dir=str(tmp_path / "file" / "out"))
