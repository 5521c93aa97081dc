"""EmojiLVIS: the long tail, glyphs, and the truth of its annotations."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eql_d2.data.emoji_lvis import (
    PRESETS,
    glyphs_of,
    plan_image_counts,
    plan_split,
    select_glyphs,
)
from eql_d2.data.emoji_lvis.federation import LVIS_NEGATIVE_SHARES, LVIS_NEGATIVES_PER_IMAGE, verified_shares
from eql_d2.data.emoji_lvis.generate import _spec_record
from eql_d2.data.emoji_lvis.glyphs import (
    MIN_GLYPH_DISTANCE,
    describe,
    glyph_distances,
    render_glyph,
    usable_glyphs,
)
from eql_d2.data.emoji_lvis.masks import decode_mask, encode_mask
from eql_d2.data.emoji_lvis.plan import train_image_counts
from eql_d2.long_tail import LVIS_THRESHOLDS, lvis_train_image_counts
from tests.data.conftest import SPEC, read_json


@pytest.fixture(scope="module", params=["train", "val"])
def split(request, folder):
    """A split's plan (the whole truth) and its annotation file (what is told of it)."""
    return plan_split(SPEC, request.param), read_json(folder / f"{request.param}.json")


def images_by_category(content: dict) -> dict[int, set[int]]:
    images = defaultdict(set)
    for annotation in content["annotations"]:
        images[annotation["category_id"]].add(annotation["image_id"])
    return images


# --- the long tail ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(3, 1203), st.integers(1000, 200_000), st.floats(0.11, 1.0))
def test_frequency_groups_have_the_proportions_of_lvis(num_classes, num_images, share):
    counts = plan_image_counts(num_classes, num_images, share)
    groups = Counter(map(LVIS_THRESHOLDS.letter, counts))
    for letter, lvis_classes in {"r": 337, "c": 461, "f": 405}.items():
        assert abs(groups[letter] - num_classes * lvis_classes / 1203) <= 1
    assert counts.min() >= 1
    assert counts.max() <= share * num_images


@settings(deadline=None)
@given(st.integers(3, 300), st.integers(300, 100_000))
def test_lambda_puts_exactly_rare_and_common_classes_below_it(num_classes, num_images):
    counts = plan_image_counts(num_classes, num_images, 0.45)
    below = counts / num_images < 100 / num_images
    assert below.tolist() == [LVIS_THRESHOLDS.letter(count) in "rc" for count in counts]


def test_a_set_as_large_as_lvis_has_the_counts_of_lvis():
    counts = plan_image_counts(1203, 99_388, 0.45)
    lvis = np.array(lvis_train_image_counts())
    assert Counter(map(LVIS_THRESHOLDS.letter, lvis)) == {"r": 337, "c": 461, "f": 405}
    np.testing.assert_array_equal(counts[lvis != 100], lvis[lvis != 100])


def test_compression_keeps_the_order_of_the_frequent_classes_and_reaches_the_cap():
    counts = plan_image_counts(1203, 4000, 0.2)
    assert (np.diff(counts) >= 0).all()
    assert counts.max() == 800


def test_v05_counts_are_at_hand_as_well():
    assert len(lvis_train_image_counts("lvis_v0.5")) == 1230


# --- glyphs -----------------------------------------------------------------------------------------------


def test_enough_distinct_glyphs_for_a_set_as_large_as_lvis():
    glyphs, _ = usable_glyphs()
    assert len(glyphs) >= 1203
    assert len({glyph.name for glyph in glyphs}) == len(glyphs)
    assert not [glyph.name for glyph in glyphs if "clock_face" in glyph.name or "keycap" in glyph.name]


def test_no_two_usable_glyphs_look_alike():
    _, distances = usable_glyphs()
    np.fill_diagonal(distances := distances.copy(), np.inf)
    assert distances.min() >= MIN_GLYPH_DISTANCE


@pytest.mark.parametrize(("one", "other"), [(0x27A1, 0x2B05), (0x26AB, 0x2B24), (0x1F610, 0x1F641)])
def test_look_alikes_are_recognised(one, other):
    """An arrow and its mirror image, a circle and a larger one, two straight faces."""
    distances = glyph_distances(np.stack([describe(render_glyph(one)), describe(render_glyph(other))]))
    assert distances[0, 1] < MIN_GLYPH_DISTANCE


def test_glyphs_are_drawn_in_colour():
    red_apple = render_glyph(0x1F34E)
    blue, _, red, alpha = red_apple[red_apple[..., 3] == 1].mean(axis=0)
    assert alpha == 1 and red > blue + 0.3


def test_class_choice_follows_the_seed_and_spreads_over_the_font():
    assert select_glyphs(20, 5) == select_glyphs(20, 5) != select_glyphs(20, 6)
    descriptors = np.stack([describe(render_glyph(glyph.codepoint)) for glyph in select_glyphs(60, 0)])
    distances = glyph_distances(descriptors)
    assert distances[~np.eye(60, dtype=bool)].min() > 2 * MIN_GLYPH_DISTANCE


def test_classes_other_than_those_of_a_preset():
    own, others = (set(glyphs_of(PRESETS[name])) for name in ("demo", "pretrain"))
    assert (len(own), len(others), own & others) == (60, 240, set())
    # No glyph looks like one of the other set.
    distances = glyph_distances(np.stack([describe(render_glyph(glyph.codepoint)) for glyph in (*own, *others)]))
    assert distances[:60, 60:].min() >= MIN_GLYPH_DISTANCE
    with pytest.raises(ValueError, match=r"num_classes is 1200, but OpenMoji has 11.. distinct glyphs"):
        select_glyphs(1200, 0, own)
    with pytest.raises(ValueError, match="other_than is 'dmo'; use one of demo, bench, full, pretrain"):
        dataclasses.replace(SPEC, other_than="dmo")


# --- what the annotation files say ------------------------------------------------------------------------


def test_realised_image_counts_are_the_planned_ones(split):
    plan, content = split
    images = images_by_category(content)
    realised = [len(images[category + 1]) for category in range(SPEC.num_classes)]
    assert realised == plan.image_counts.tolist()


def test_category_records_tell_the_train_counts_in_both_files(folder):
    train, val = read_json(folder / "train.json"), read_json(folder / "val.json")
    images = images_by_category(train)
    instances = Counter(annotation["category_id"] for annotation in train["annotations"])
    assert [category["id"] for category in train["categories"]] == list(range(1, SPEC.num_classes + 1))
    for category in train["categories"]:
        assert category["image_count"] == len(images[category["id"]])
        assert category["instance_count"] == instances[category["id"]]
        assert category["frequency"] == LVIS_THRESHOLDS.letter(category["image_count"])
    assert val["categories"] == train["categories"]
    assert sum(instances.values()) > sum(len(ids) for ids in images.values())


def test_area_and_box_are_those_of_the_stored_mask(split):
    _, content = split
    for annotation in content["annotations"]:
        mask = decode_mask(annotation["segmentation"], SPEC.image_size, SPEC.image_size)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["area"] == mask.sum() > 0
        assert annotation["bbox"] == box
        assert all(isinstance(value, float) for value in [annotation["area"], *annotation["bbox"]])


def test_masks_of_an_image_do_not_overlap_beyond_rounding(split):
    _, content = split
    owners = defaultdict(lambda: np.zeros((SPEC.image_size, SPEC.image_size), int))
    for annotation in content["annotations"]:
        owners[annotation["image_id"]] += decode_mask(annotation["segmentation"], SPEC.image_size, SPEC.image_size)
    for image_id, owner in owners.items():
        assert (owner > 1).sum() <= 0.02 * (owner > 0).sum(), image_id


def test_both_kinds_of_segmentation_occur(split):
    _, content = split
    kinds = Counter(type(annotation["segmentation"]) for annotation in content["annotations"])
    assert kinds[list] > kinds[dict] > 0


def test_negatives_are_truly_absent_and_disjoint_from_positives(split):
    plan, content = split
    for image_plan, image in zip(plan.images, content["images"], strict=True):
        assert not {category - 1 for category in image["neg_category_ids"]} & image_plan.present
    assert sum(len(image["neg_category_ids"]) for image in content["images"]) > 0


def test_annotations_tell_exactly_what_is_planned_to_be_told(split):
    plan, content = split
    told = defaultdict(Counter)
    for annotation in content["annotations"]:
        told[annotation["image_id"]][annotation["category_id"] - 1] += 1
    for image_plan, image in zip(plan.images, content["images"], strict=True):
        annotated = Counter(obj.category for obj in image_plan.objects if obj.annotated)
        drawn = Counter(obj.category for obj in image_plan.objects)
        assert told[image["id"]] == annotated
        gaps = {category for category in annotated if annotated[category] < drawn[category]}
        assert gaps == {category - 1 for category in image["not_exhaustive_category_ids"]}


def test_train_keeps_some_presences_of_frequent_classes_unannotated():
    plan = plan_split(SPEC, "train")
    hidden = Counter(category for image in plan.images for category in image.hidden)
    for category, count in enumerate(plan.image_counts):
        expected = round(SPEC.unannotated_share * count) if LVIS_THRESHOLDS.letter(count) == "f" else 0
        assert hidden[category] == expected
    assert sum(hidden.values()) > 0


def test_val_is_complete_and_shows_every_class_equally_often():
    plan = plan_split(SPEC, "val")
    assert len(set(plan.image_counts)) == 1 and plan.image_counts[0] >= 1
    assert not any(image.hidden or image.not_exhaustive for image in plan.images)
    negatives = Counter(category for image in plan.images for category in image.negatives)
    assert all(negatives[category] >= 10 for category in range(SPEC.num_classes))


def test_loads_with_the_official_lvis_package(folder):
    lvis = pytest.importorskip("lvis")
    dataset = lvis.LVIS(str(folder / "val.json"))
    assert len(dataset.get_img_ids()) == SPEC.num_val_images
    assert len(dataset.get_cat_ids()) == SPEC.num_classes
    annotation = dataset.load_anns(dataset.get_ann_ids()[:1])[0]
    assert dataset.ann_to_mask(annotation).sum() == annotation["area"]


def test_the_official_evaluation_gives_full_marks_to_the_truth(folder, monkeypatch):
    lvis = pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 still uses the name numpy dropped
    dataset = lvis.LVIS(str(folder / "val.json"))
    results = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for annotation in dataset.dataset["annotations"]
    ]
    evaluation = lvis.LVISEval(dataset, lvis.LVISResults(dataset, results), "bbox")
    evaluation.run()
    assert all(evaluation.results[key] == pytest.approx(1.0) for key in ("AP", "APr", "APc", "APf"))


# --- masks ------------------------------------------------------------------------------------------------


def test_a_plain_shape_becomes_an_exact_polygon():
    bitmap = np.zeros((40, 50), bool)
    bitmap[5:20, 7:31] = True
    segmentation, area, box = encode_mask(bitmap)
    assert isinstance(segmentation, list)
    assert (area, box) == (15 * 24, [7, 5, 24, 15])
    np.testing.assert_array_equal(decode_mask(segmentation, 40, 50), bitmap)


def test_a_shape_with_a_hole_becomes_run_lengths():
    bitmap = np.zeros((40, 50), bool)
    bitmap[5:30, 7:31] = True
    bitmap[12:18, 12:18] = False
    segmentation, _, _ = encode_mask(bitmap)
    assert isinstance(segmentation, dict)
    np.testing.assert_array_equal(decode_mask(segmentation, 40, 50), bitmap)


# --- federation -------------------------------------------------------------------------------------------


def test_lvis_s_federation_is_counted_in_its_annotations(shared_data):
    content = read_json(shared_data / "lvis_v0.5_val_100.json")
    counts = read_json(shared_data / "lvis_v0.5_train_category_counts.json")["categories"]
    letters = {category["id"]: category["frequency"] for category in counts}
    negatives = [letters[c] for image in content["images"] for c in image["neg_category_ids"]]
    num_images = len(content["images"])
    assert len(negatives) / num_images == pytest.approx(LVIS_NEGATIVES_PER_IMAGE)
    for letter, share in LVIS_NEGATIVE_SHARES.items():
        pairs = num_images * sum(value == letter for value in letters.values())
        assert negatives.count(letter) / pairs == pytest.approx(share, rel=2e-3)
    shares = verified_shares(content, letters)
    assert {name: round(value, 4) for name, value in shares.items()} == {
        "all": 0.0101, "r": 0.0036, "c": 0.0102, "f": 0.0193
    }  # fmt: skip


def test_a_federated_set_is_verified_as_lvis_is(tmp_path):
    spec = dataclasses.replace(PRESETS["federated"], num_val_images=400)
    assert spec.num_classes >= 300 and spec.negatives_per_image == LVIS_NEGATIVES_PER_IMAGE
    for split in ("train", "val"):
        plan = plan_split(spec, split)
        per_image = np.array([len(image.negatives) for image in plan.images])
        assert per_image.mean() == pytest.approx(LVIS_NEGATIVES_PER_IMAGE, rel=0.02)
        letters = [LVIS_THRESHOLDS.letter(count) for count in train_image_counts(spec)]
        verified = sum(len(image.negatives) + len(image.positives) for image in plan.images)
        assert 0.01 < verified / len(plan.images) / spec.num_classes < 0.06
        of_class = np.bincount([c for image in plan.images for c in image.negatives], minlength=spec.num_classes)
        means = {letter: of_class[np.array(letters) == letter].mean() for letter in "rcf"}
        assert of_class.min() >= 1
        for letter in "rc":
            ratio = LVIS_NEGATIVE_SHARES[letter] / LVIS_NEGATIVE_SHARES["f"]
            assert means[letter] / means["f"] == pytest.approx(ratio, rel=0.1)


def test_the_pretraining_shares_no_class_with_the_demo_and_the_federated_set():
    demo, federated, of_pretraining = (
        {glyph.codepoint for glyph in glyphs_of(PRESETS[name])} for name in ("demo", "federated", "federated_pretrain")
    )
    assert not of_pretraining & (demo | federated)


def test_presets_of_before_are_as_they_were():
    """Their specs say nothing of the new field, and so their folders and bytes stay."""
    for name in ("demo", "bench", "full", "pretrain"):
        assert PRESETS[name].negatives_per_image == 0 and "negatives_per_image" not in _spec_record(PRESETS[name])
    plain = [
        [
            [[int(thing.category), bool(thing.annotated)] for thing in image.objects],
            [*map(int, image.negatives)],
            [*map(int, image.not_exhaustive)],
        ]
        for split in ("train", "val")
        for image in plan_split(PRESETS["demo"], split).images
    ]
    digest = hashlib.sha256(json.dumps(plain).encode()).hexdigest()
    assert digest == "754b60935b42d0aad3972833b0dfb9c1c94894535731ce024b49866303af650e"
