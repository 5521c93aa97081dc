"""tools/show_samples.py: the sheet shows what the loader gives, and mistakes are named."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image

from eql_d2.data.training.loader import build_train_loader
from eql_d2.drawing.training_sheet import draw_sample, samples_sheet
from eql_d2.errors import UserError
from tests.conftest import ROOT

TINY = str(ROOT / "tests" / "tiny.yaml")


@pytest.fixture(scope="module")
def show_samples():
    spec = importlib.util.spec_from_file_location("show_samples", ROOT / "tools" / "show_samples.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.main


@pytest.fixture
def overrides(tiny_set):
    custom = [{"name": "tiny_train", "annotations": str(tiny_set / "train.json"), "images": str(tiny_set)}]
    return ["DATASETS.CUSTOM", str(custom), "INPUT.COPY_PASTE.ENABLED", "True"]


def test_the_sheet_is_of_the_first_samples(show_samples, overrides, tiny_cfg, tmp_path, capsys):
    output = tmp_path / "new" / "sheet.png"
    arguments = ["--config-file", TINY, "--output", str(output), "--images", "5", "--side", "200"]
    show_samples([*arguments, *overrides])
    assert "5 samples" in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["sheet.png"]  # and nothing of a run
    tiny_cfg.INPUT.COPY_PASTE.ENABLED = True
    loader = build_train_loader(tiny_cfg, seed=max(tiny_cfg.SEED, 0))
    samples = list(itertools.islice(itertools.chain.from_iterable(loader), 5))
    names = MetadataCatalog.get("tiny_train").thing_classes
    assert np.array_equal(np.asarray(Image.open(output)), samples_sheet(samples, names, "BGR", 200))


def sample_of(instances):
    """A picture that is blue, in Detectron2's BGR."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[0] = 255
    return {"image": image, "instances": instances, "file_name": "x.jpg"}


def test_colours_masks_and_boxes_are_in_their_places():
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 10:30, 20:50] = True
    instances = Instances((40, 60), gt_boxes=Boxes(torch.tensor([[20.0, 10, 50, 30]])), gt_classes=torch.tensor([0]))
    plain = draw_sample(sample_of(instances[:0]), [""], "BGR", 120)
    assert plain.shape == (80, 120, 3)
    assert (plain == [0, 0, 255]).all()
    box_only = draw_sample(sample_of(instances), [""], "BGR", 120)
    assert (box_only[45, 70] == [0, 0, 255]).all()
    assert not (box_only[45, 40] == [0, 0, 255]).all()
    instances.gt_masks = BitMasks(masks)
    with_mask = draw_sample(sample_of(instances), [""], "BGR", 120)
    assert not (with_mask[45, 70] == [0, 0, 255]).all()
    assert (with_mask[70, 70] == [0, 0, 255]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images is 0 and --side 400; both must be at least 1"),
        (["--output", "sheet.nothing"], "--output sheet.nothing cannot be written"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["INPUT.LSJ.SCALE", "1"], "Config key INPUT.LSJ.SCALE does not exist"),
    ],
)
def test_mistakes(show_samples, overrides, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--config-file", TINY, "--output", "sheet.png"]
    is_key = arguments[0].isupper()
    with pytest.raises(UserError, match=message):
        show_samples([*options, *overrides, *arguments] if is_key else [*options, *arguments, *overrides])
