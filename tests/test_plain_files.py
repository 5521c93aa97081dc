"""Files from anywhere: what they hold comes out, what they would run does not run."""

import contextlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from eql_d2.errors import UserError
from eql_d2.plain_files import Inert, csv_text, load_checkpoint, load_pickle, read_yaml, text_of_csv
from tests.payloads import PICKLES, YAMLS, write_torch_file

ARRAYS = {
    "model": {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.int64(3), "b": np.zeros((0, 4))},
    "__author__": "someone",
    "matching_heuristics": True,
    "bytes": b"\xff\x00",
}


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_the_model_zoo_load(tmp_path, protocol):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(ARRAYS, protocol=protocol))
    content = load_pickle(path)
    np.testing.assert_array_equal(content["model"]["conv1_w"], ARRAYS["model"]["conv1_w"])
    assert content["model"]["count"] == 3 and content["model"]["b"].shape == (0, 4)
    assert content["matching_heuristics"] is True and content["bytes"] == b"\xff\x00"


def test_a_pickle_of_python_2_loads(tmp_path):
    """As the model zoo's first files: text and array data are byte strings."""
    path = tmp_path / "old.pkl"
    path.write_bytes(
        b"\x80\x02}q\x00U\x05blobsq\x01}q\x02U\x04fc_wq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\n"
        b"q\x05K\x00\x85U\x01b\x87Rq\x06(K\x01K\x02\x85cnumpy\ndtype\nq\x07U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff"
        b"\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tbss."
    )
    np.testing.assert_array_equal(load_pickle(path)["blobs"]["fc_w"], np.array([1.0, -2.0], np.float32))


@pytest.mark.parametrize("old_format", [False, True])
def test_checkpoints_with_objects_of_others_give_their_tensors(tmp_path, old_format):
    path = tmp_path / "other.pth"
    content = {
        "state_dict": OrderedDict(weight=torch.arange(4.0), half=torch.ones(2, dtype=torch.bfloat16)),
        "meta": {"path": Path("a"), "size": torch.Size([1, 2])},
    }
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["weight"], torch.arange(4.0))
    assert loaded["state_dict"]["half"].dtype == torch.bfloat16
    assert isinstance(loaded["meta"]["path"], Inert)


@pytest.mark.parametrize("payload", PICKLES)
@pytest.mark.parametrize("form", ["pkl", "zip", "old"])
def test_no_pickle_runs_anything(tmp_path, monkeypatch, payload, form):
    monkeypatch.chdir(tmp_path)
    data = PICKLES[payload](tmp_path / "ran")
    path = tmp_path / ("file.pkl" if form == "pkl" else "file.pth")
    if form == "pkl":
        path.write_bytes(data)
    else:
        write_torch_file(path, data, old_format=form == "old")
    with contextlib.suppress(Exception):
        (load_pickle if form == "pkl" else load_checkpoint)(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("payload", PICKLES)
def test_the_payloads_would_run(tmp_path, payload):
    """Else the test above says nothing; in a process of its own, as some end it."""
    data = PICKLES[payload](tmp_path / "ran")
    if os.fork() == 0:
        try:
            pickle.loads(data)
        finally:
            os._exit(0)
    os.wait()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("payload", YAMLS)
def test_no_yaml_runs_anything_or_takes_forever(tmp_path, payload):
    with pytest.raises(UserError, match=r"The file .*(asks to run Python|nested too deeply|is not valid YAML)"):
        read_yaml(YAMLS[payload](tmp_path / "ran"), "The file")
    assert not (tmp_path / "ran").exists()


def test_plain_yaml_is_read():
    assert read_yaml("A: {B: [1, 2.5, yes]}\nC: &c {D: x}\nE: *c", "x") == {
        "A": {"B": [1, 2.5, True]},
        "C": {"D": "x"},
        "E": {"D": "x"},
    }


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\r=x"])
def test_names_are_no_formulas(name):
    assert csv_text(name)[0] == "'" and text_of_csv(csv_text(name)) == name


@pytest.mark.parametrize("name", ["cat", "a=b", "'quoted'", "", "'s-Hertogenbosch"])
def test_other_names_stay(name):
    assert csv_text(name) == name and text_of_csv(name) == name
