"""Transforms: each by its name, repeatable, and mistakes as one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from eql_d2.classification.transforms import TRANSFORMS, Cutout, ImageMapper, build_transforms
from eql_d2.data.training.seeding import seeded_random_state
from eql_d2.engine import load_config
from eql_d2.errors import UserError
from tests.conftest import ROOT

BASE = str(ROOT / "configs" / "classification" / "Base-classification.yaml")
OPTIONS = {"CenterCrop": {"size": 8}, "ColorJitter": {"hue": 0.3}, "Cutout": {"size": 8}, "RandomCrop": {"size": 8}}
OPTIONS |= {"RandomAffine": {"degrees": 30}}
OPTIONS |= {"RandomResizedCrop": {"size": 8}, "RandomRotation": {"degrees": 30}, "Resize": {"size": 8}}
NOT_RANDOM = {"CenterCrop", "Resize"}


def cfg_with(*transforms):
    cfg = load_config(BASE)
    cfg.INPUT.TRAIN_TRANSFORMS = list(transforms)
    return cfg


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_each_transform_follows_from_the_seed(name, image):
    transform = build_transforms(cfg_with({name: OPTIONS[name]} if name in OPTIONS else name), is_train=True)
    outcomes = []
    for seed in (*range(20), 0):
        with seeded_random_state(seed):
            outcomes.append(transform(image))
    assert torch.equal(outcomes[0], outcomes[-1])
    assert outcomes[0].dtype == torch.uint8
    different = {outcome.numpy().tobytes() for outcome in outcomes}
    assert len(different) == 1 if name in NOT_RANDOM else len(different) > 1


def test_they_come_in_their_order(image):
    cfg = cfg_with({"Resize": {"size": [40, 40]}}, {"CenterCrop": {"size": 30}})
    assert build_transforms(cfg, is_train=True)(image).shape == (3, 30, 30)
    assert build_transforms(cfg, is_train=False)(image).shape == (3, 16, 20)


def test_cutout_fills_a_square_around_a_pixel():
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    cutout, areas = Cutout(16, (10, 20, 30)), set()
    for seed in range(200):
        torch.manual_seed(seed)
        pixels = np.asarray(cutout(white))
        filled = (pixels == (10, 20, 30)).all(axis=2)
        rows, columns = filled.any(axis=1), filled.any(axis=0)
        assert filled.sum() == rows.sum() * columns.sum()  # a rectangle
        assert (pixels[~filled] == 255).all()
        areas.add(int(filled.sum()))
    assert (min(areas) >= 64, max(areas)) == (True, 256)  # from a quarter, in a corner, to the whole
    assert np.asarray(white).min() == 255


def test_cutout_fills_with_the_mean(image):
    cfg = cfg_with({"Cutout": {"size": 64}})  # covers everything
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8)
    assert torch.equal(build_transforms(cfg, is_train=True)(image), mean[:, None, None].expand(3, 16, 20))


def test_grey_images_become_coloured_and_the_other_way(image):
    record = {"image": image.convert("L"), "label": 0}
    cfg = load_config(BASE)
    assert ImageMapper(cfg, is_train=False)(record)["image"].shape == (3, 16, 20)
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", [1.0], [1.0]
    assert ImageMapper(cfg, is_train=False)({"image": image})["image"].shape == (1, 16, 20)


@pytest.mark.parametrize(
    ("transform", "sentence"),
    [
        ("AutoAugmentation", "INPUT.TRAIN_TRANSFORMS has the unknown 'AutoAugmentation'; it must be one of AutoAugm"),
        (["Resize"], r"has the unknown \['Resize'\]"),
        ({"Resize": {"size": 8}, "CenterCrop": {"size": 8}}, "has the unknown"),
        (
            {"AutoAugment": {"policy": "cifar"}},
            "AutoAugment has the policy 'cifar'; it must be cifar10, imagenet, svhn",
        ),
        ({"RandomCrop": {"pad": 4}}, r"RandomCrop does not take \{'pad': 4\}"),
        (
            {"Resize": 32},
            r"TRAIN_TRANSFORMS: Resize has the options 32; give each by its name, as in \{size: 32\}.",
        ),
        ({"AutoAugment": ["svhn"]}, r"AutoAugment has the options \['svhn'\]"),
        ("Resize", "Resize does not take no options"),
        ({"RandomAffine": {"degrees": -1}}, "RandomAffine does not take"),
    ],
)
def test_mistaken_transforms(transform, sentence):
    with pytest.raises(UserError, match=sentence):
        build_transforms(cfg_with(transform), is_train=True)


def test_channels_that_do_not_fit():
    cfg = load_config(BASE)
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(UserError, match=r"need 1 numbers each for INPUT.FORMAT L"):
        build_transforms(cfg, is_train=True)
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(UserError, match=r"INPUT.FORMAT is 'BGR'"):
        build_transforms(cfg, is_train=True)
