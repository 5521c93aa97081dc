"""Simple copy-paste: pixels, masks and boxes by hand and by double loops; samples that follow from the seed."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from eql_d2.data.training.copy_paste import CopyPaste, build_copy_paste, paste
from eql_d2.data.training.image_classes import ImageClasses
from eql_d2.data.training.image_targets import ImageTargets
from eql_d2.data.training.loader import build_train_loader
from eql_d2.data.training.seeding import seeded_random_state
from eql_d2.engine import LongTailTrainer
from eql_d2.errors import UserError


def rectangle(size, top, left, bottom, right):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def sample_of(masks, classes, value=0, **fields):
    """A mapped dict with a picture of one value."""
    masks = torch.stack(list(masks))
    instances = Instances(tuple(masks.shape[1:]))
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.tensor(classes)
    for name, field in fields.items():
        instances.set(name, field)
    image = torch.full((3, *masks.shape[1:]), value, dtype=torch.uint8)
    return {"image": image, "instances": instances, "image_id": value}


def test_by_hand():
    """A 2 x 3 object lands on a 4 x 4 one: twelve pixels become eight, and the box loses two columns."""
    size = (6, 8)
    target = sample_of([rectangle(size, 1, 1, 5, 5), rectangle(size, 0, 6, 2, 8)], [3, 4], value=10)
    source = sample_of([rectangle(size, 0, 0, 2, 2), rectangle(size, 1, 3, 5, 6)], [7, 8], value=200)
    result = paste(target, source, torch.tensor([1]), hidden_area=2, hidden_shift=1)
    cover = rectangle(size, 1, 3, 5, 6)
    assert torch.equal(result["image"], torch.where(cover, 200, 10).to(torch.uint8).expand(3, 6, 8))
    instances = result["instances"]
    assert instances.gt_classes.tolist() == [3, 4, 8]
    assert instances.gt_boxes.tensor.tolist() == [[1, 1, 3, 5], [6, 0, 8, 2], [3, 1, 6, 5]]
    assert [int(mask.sum()) for mask in instances.gt_masks.tensor] == [8, 4, 12]
    assert not (instances.gt_masks.tensor[0] & cover).any()
    assert result["image_id"] == 10
    # The two samples are as they were.
    assert target["instances"].gt_masks.tensor[0].sum() == 16
    assert (target["image"] == 10).all()
    assert target["instances"].gt_boxes.tensor.tolist()[0] == [1, 1, 5, 5]


@pytest.mark.parametrize(
    ("covered", "kept"),
    [
        (rectangle((40, 40), 0, 0, 40, 40), False),  # nothing is visible
        (rectangle((40, 40), 0, 0, 29, 40), False),  # 20 pixels are, and the top has moved by 29
        (rectangle((40, 40), 0, 0, 14, 40), True),  # the top has moved by 14, but 320 pixels are visible
        (rectangle((40, 40), 0, 0, 0, 0), True),  # it is not cut
        (rectangle((40, 40), 0, 0, 10, 40), True),  # the top has moved by 10 only
        (rectangle((40, 40), 10, 1, 30, 20), True),  # 39 pixels are visible, but the box is as it was
    ],
)
def test_what_counts_as_hidden(covered, kept):
    """Of an object of 30 x 20 pixels at the top left; thresholds are the authors' 300 pixels and 10."""
    object_ = rectangle((40, 40), 0, 0, 30, 20)
    visible = object_ & ~covered
    if not covered.any():
        covered = rectangle((40, 40), 39, 39, 40, 40)
    result = paste(sample_of([object_], [0]), sample_of([covered], [1], value=9), torch.tensor([0]))["instances"]
    assert (0 in result.gt_classes.tolist()) == kept
    assert 1 in result.gt_classes.tolist()
    if kept:
        assert torch.equal(result.gt_masks.tensor[0], visible)


def test_the_area_threshold_itself():
    """At 300 visible pixels an object whose box has moved is hidden, at 301 it is not."""
    object_ = rectangle((40, 40), 0, 0, 40, 20)
    for extra, kept in ((0, False), (1, True)):
        cover = rectangle((40, 40), 0, 0, 25, 20)
        cover[24, :extra] = False
        result = paste(sample_of([object_], [0]), sample_of([cover], [1]), torch.tensor([0]))["instances"]
        assert (0 in result.gt_classes.tolist()) == kept


def blob(generator, size):
    height, width = size
    top, left = (int(torch.randint(side, (), generator=generator)) for side in size)
    mask = rectangle(size, top, left, min(height, top + 9), min(width, left + 9))
    return mask & (torch.rand(size, generator=generator) < 0.7)


@pytest.mark.parametrize("seed", range(12))
def test_against_a_double_loop(seed):
    """Random masks, frames of different sizes and offsets; every pixel by itself."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [tuple(torch.randint(8, 24, (2,), generator=generator).tolist()) for _ in range(2)]
    masks = [[mask for _ in range(6) if (mask := blob(generator, size)).any()] for size in sizes]
    target, source = (sample_of(m, list(range(10 * i, 10 * i + len(m))), value=i + 1) for i, m in enumerate(masks))
    source["image"] = torch.randint(50, 250, source["image"].shape, generator=generator, dtype=torch.uint8)
    offset = [
        int(torch.randint(min(0, t - s), max(0, t - s) + 1, (), generator=generator))
        for t, s in zip(*sizes, strict=True)
    ]
    chosen = torch.randperm(len(masks[1]), generator=generator)[: len(masks[1]) // 2]
    result = paste(target, source, chosen, offset, hidden_area=12, hidden_shift=2)

    (height, width), (source_height, source_width) = sizes
    expected_image, covered = target["image"].clone(), set()
    expected = {}
    for index in chosen.tolist():
        pixels = set()
        for y, x in itertools.product(range(source_height), range(source_width)):
            place = (y + offset[0], x + offset[1])
            if masks[1][index][y, x] and 0 <= place[0] < height and 0 <= place[1] < width:
                pixels.add(place)
        whole = int(masks[1][index].sum())
        box = source["instances"].gt_boxes.tensor[index] + torch.tensor([offset[1], offset[0]] * 2)
        if remains(pixels, whole, box):
            expected[10 + index] = pixels
            covered |= pixels
            for y, x in pixels:
                expected_image[:, y, x] = source["image"][:, y - offset[0], x - offset[1]]
    for index, mask in enumerate(masks[0]):
        pixels = {(y, x) for y, x in itertools.product(range(height), range(width)) if mask[y, x]} - covered
        if remains(pixels, int(mask.sum()), target["instances"].gt_boxes.tensor[index]):
            expected[index] = pixels
    assert torch.equal(result["image"], expected_image)
    instances = result["instances"]
    assert set(instances.gt_classes.tolist()) == set(expected)
    for class_id, mask, box in zip(
        instances.gt_classes.tolist(), instances.gt_masks.tensor, instances.gt_boxes.tensor.tolist(), strict=True
    ):
        assert set(map(tuple, mask.nonzero().tolist())) == expected[class_id]
        assert box == box_of(expected[class_id])


def box_of(pixels):
    ys, xs = zip(*pixels, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def remains(pixels, whole, box):
    if len(pixels) == whole:
        return True
    if not pixels:
        return False
    moved = max(abs(a - b) for a, b in zip(box_of(pixels), box.tolist(), strict=True))
    return len(pixels) > 12 or moved <= 2


def test_what_an_image_knows_is_kept():
    """Image-level labels and ignore regions are the target's; what is pasted is known to be there."""
    size, regions = (20, 20), Boxes(torch.tensor([[0.0, 0, 5, 5]]))
    target = sample_of([rectangle(size, 0, 0, 15, 15)], [0])
    known = ImageTargets(
        size, verified_classes=torch.tensor([0, 5]), ignore_regions=regions, **target["instances"].get_fields()
    )
    target["instances"] = known
    source = sample_of([rectangle(size, 0, 0, 10, 10), rectangle(size, 12, 12, 18, 18)], [7, 5])
    source["instances"] = ImageTargets(
        size, verified_classes=torch.tensor([5, 7, 9]), **source["instances"].get_fields()
    )
    result = paste(target, source, torch.tensor([1, 0]))["instances"]
    assert result.verified_classes.tolist() == [0, 5, 7]
    assert result.ignore_regions is regions
    assert known.verified_classes.tolist() == [0, 5]
    assert result.gt_classes.tolist() == [0, 5, 7]
    nothing = paste(target, source, torch.tensor([], dtype=torch.int64))["instances"]
    assert nothing.verified_classes.tolist() == [0, 5]


def test_fields():
    """Fields of both are joined, others left out, but for gt_has_mask, whose absence has a meaning."""
    size = (8, 8)
    first = sample_of([rectangle(size, 0, 0, 2, 2)], [0], both=torch.tensor([1.5]), only=torch.tensor([1]))
    second = sample_of([rectangle(size, 4, 4, 8, 8)], [1], both=torch.tensor([2.5]))
    result = paste(first, second, torch.tensor([0]))["instances"]
    assert set(result.get_fields()) == {"gt_masks", "gt_boxes", "gt_classes", "both"}
    assert result.both.tolist() == [1.5, 2.5]
    first["instances"].gt_has_mask = torch.tensor([False])
    assert paste(first, second, torch.tensor([0]))["instances"].gt_has_mask.tolist() == [False, True]
    assert paste(second, first, torch.tensor([0]))["instances"].gt_has_mask.tolist() == [True, False]


def without_masks(sample):
    sample["instances"].remove("gt_masks")
    return sample


def empty_sample(size, value=0):
    instances = Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    return {"image": torch.full((3, *size), value, dtype=torch.uint8), "instances": instances}


def test_an_image_without_instances_gets_some():
    size = (9, 9)
    source = sample_of([rectangle(size, 2, 3, 5, 7)], [4], value=77)
    result = paste(empty_sample(size), source, torch.tensor([0]))
    assert result["instances"].gt_boxes.tensor.tolist() == [[3, 2, 7, 5]]
    assert int((result["image"][0] == 77).sum()) == 12


def test_nothing_is_pasted_onto_boxes_without_masks():
    size = (9, 9)
    target = without_masks(sample_of([rectangle(size, 2, 3, 5, 7)], [4]))
    result = paste(target, sample_of([rectangle(size, 2, 3, 5, 7)], [5], value=77), torch.tensor([0]))
    assert result["instances"].gt_classes.tolist() == [4]
    assert (result["image"] == 0).all()


def pick(samples, weights=None, **options):
    return CopyPaste(lambda index: samples[index], weights or [1] * len(samples), **options)


@pytest.mark.parametrize("kind", ["no instances", "no masks", "gt_has_mask false"])
def test_nothing_is_pasted_of_what_has_no_masks(kind):
    size = (9, 9)
    source = {
        "no instances": empty_sample(size, 5),
        "no masks": without_masks(sample_of([rectangle(size, 2, 3, 5, 7)], [5], value=5)),
        "gt_has_mask false": sample_of([rectangle(size, 2, 3, 5, 7)], [5], 5, gt_has_mask=torch.tensor([False])),
    }[kind]
    target = sample_of([rectangle(size, 0, 0, 3, 3)], [4])
    copy_paste = pick([target, source], [0, 1])
    for seed in range(10):
        with seeded_random_state(seed):
            result = copy_paste(0)
        assert result["instances"].gt_classes.tolist() == [4]
        assert (result["image"] == 0).all()


def test_sources_and_subsets_are_drawn_as_documented():
    """Sources by their weights; of three instances each subset of 0 … 3 with the same probability of its size."""
    size = (12, 12)
    target = empty_sample(size)
    squares = [rectangle(size, 4 * i, 0, 4 * i + 3, 3) for i in range(3)]
    samples = [target, sample_of(squares, [1, 2, 3]), sample_of(squares, [4, 5, 6])]
    copy_paste = pick(samples, [0, 1, 3])
    numbers, sources, classes = Counter(), Counter(), Counter()
    for seed in range(1000):
        with seeded_random_state(seed):
            pasted = copy_paste(0)["instances"].gt_classes.tolist()
        numbers[len(pasted)] += 1
        sources.update({int(pasted[0] > 3)} if pasted else ())
        classes.update(pasted)
    assert all(abs(numbers[count] - 250) < 60 for count in range(4))  # four standard deviations
    assert abs(sources[1] / sources.total() - 0.75) < 0.065
    assert max(classes[c] for c in (4, 5, 6)) < 1.3 * min(classes[c] for c in (4, 5, 6))


def test_a_smaller_frame_lands_anywhere_within():
    target, source = empty_sample((10, 12)), sample_of([rectangle((8, 8), 0, 0, 8, 8)], [1])
    copy_paste, places = pick([target, source], [0, 1]), set()
    for seed in range(200):
        with seeded_random_state(seed):
            places.update((x, y) for x, y, *_ in copy_paste(0)["instances"].gt_boxes.tensor.tolist())
    assert places == set(itertools.product(range(5), range(3)))


def batches_of(cfg, start=0, count=4):
    loader = build_train_loader(cfg, seed=5)
    loader.start_iteration = start
    return list(itertools.islice(loader, count))


@pytest.fixture
def pasting_cfg(tiny_cfg):
    tiny_cfg.INPUT.COPY_PASTE.ENABLED = True
    tiny_cfg.INPUT.LSJ.ENABLED, tiny_cfg.INPUT.LSJ.IMAGE_SIZE = True, 64
    return tiny_cfg


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("jitter", [True, False])
def test_samples_follow_from_the_seed(pasting_cfg, jitter, mask_format):
    pasting_cfg.INPUT.LSJ.ENABLED, pasting_cfg.INPUT.MASK_FORMAT = jitter, mask_format
    pasting_cfg.INPUT.MIN_SIZE_TRAIN = (40, 64)
    straight = batches_of(pasting_cfg)
    pasting_cfg.DATALOADER.NUM_WORKERS = 2
    late = batches_of(pasting_cfg, start=2, count=2)
    for expected, got in zip(itertools.chain(*straight[2:]), itertools.chain(*late), strict=True):
        assert expected["image_id"] == got["image_id"]
        assert torch.equal(expected["image"], got["image"])
        for field in ("gt_masks", "gt_boxes"):
            assert torch.equal(expected["instances"].get(field).tensor, got["instances"].get(field).tensor)
    samples = list(itertools.chain(*straight))
    assert all(isinstance(s["instances"].gt_masks, BitMasks) for s in samples if len(s["instances"]))
    for sample in samples:  # every image is the model's, with its own size and masks of that size
        assert sample["instances"].gt_masks.tensor.shape[1:] == sample["image"].shape[1:]


def test_more_instances_than_without(pasting_cfg):
    with_paste = sum(len(s["instances"]) for batch in batches_of(pasting_cfg, count=20) for s in batch)
    pasting_cfg.INPUT.COPY_PASTE.ENABLED = False
    assert with_paste > 1.2 * sum(len(s["instances"]) for batch in batches_of(pasting_cfg, count=20) for s in batch)


def test_rare_classes_are_pasted_more_often(pasting_cfg):
    """With a threshold of 1 an image of a class in 1 % of the images is drawn ten times as often."""

    def share_of_rare():
        sources = Counter()
        copy_paste = build_train_loader(pasting_cfg, seed=0).dataset._make_sample
        with seeded_random_state(0):
            sources.update(copy_paste._draw_source() for _ in range(3000))
        records = copy_paste._make_sample._dicts
        counts = Counter(c for i in range(len(records)) for c in {a["category_id"] for a in records[i]["annotations"]})
        rarest = min(counts, key=counts.get)
        holds = {i for i in range(len(records)) if any(a["category_id"] == rarest for a in records[i]["annotations"])}
        return sum(sources[i] for i in holds) / 3000, len(holds) / len(records)

    uniform, natural = share_of_rare()
    assert abs(uniform - natural) < 0.02
    pasting_cfg.INPUT.COPY_PASTE.REPEAT_THRESHOLD = 1.0
    assert share_of_rare()[0] > 2 * natural


def test_a_step_of_training(pasting_cfg):
    pasting_cfg.SOLVER.MAX_ITER, pasting_cfg.DATASETS.TEST = 2, ()
    trainer = LongTailTrainer(pasting_cfg)
    trainer.train()
    assert np.isfinite(trainer.storage.latest()["loss_mask"][0])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.MASK_ON", False, "MODEL.MASK_ON is not: there are no masks; set it to True"),
        ("INPUT.COPY_PASTE.REPEAT_THRESHOLD", -1.0, "REPEAT_THRESHOLD is -1.0; set it to 0 or a share"),
        ("MODEL.KEYPOINT_ON", True, "pastes no keypoints; set MODEL.KEYPOINT_ON to False"),
    ],
)
def test_values_that_do_not_fit(pasting_cfg, key, value, message):
    pasting_cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        build_copy_paste(pasting_cfg, empty_sample, ImageClasses([]))


def test_polygons_become_bit_masks():
    size = (10, 10)
    target = sample_of([rectangle(size, 1, 1, 4, 4)], [0])
    target["instances"].gt_masks = PolygonMasks([[np.array([1, 1, 4, 1, 4, 4, 1, 4], dtype=float)]])
    result = paste(target, target, torch.tensor([], dtype=torch.int64))["instances"]
    assert torch.equal(result.gt_masks.tensor[0], rectangle(size, 1, 1, 4, 4))
    assert isinstance(target["instances"].gt_masks, PolygonMasks)
