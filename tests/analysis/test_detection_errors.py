"""Errors of detections: a case made by hand for each kind, matching by score, properties, the colours drawn."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eql_d2.analysis.detection_errors import judge_detections
from eql_d2.analysis.finished_runs import FinishedRun
from eql_d2.analysis.gallery import COLORS, gallery
from eql_d2.errors import UserError
from tests.analysis.made_up_run import DATASET, write_dataset, write_run

CAT, DOG, EMU = 0, 1, 2


def judge(detections, objects, **labels):
    boxes = np.array([box for _, box in detections], dtype=float).reshape(-1, 4)
    true_boxes = np.array([box for _, box in objects], dtype=float).reshape(-1, 4)
    classes, true_classes = (np.array([c for c, _ in records], dtype=int) for records in (detections, objects))
    found = judge_detections(boxes, classes, true_boxes, true_classes, **labels)
    return found.kinds, found.missed.tolist()


def test_each_kind_of_error():
    objects = [(CAT, [0, 0, 10, 10]), (DOG, [20, 0, 30, 10]), (EMU, [40, 0, 50, 10])]
    detections = [
        (CAT, [0, 0, 10, 9]),  # right
        (CAT, [0, 1, 10, 10]),  # the same cat
        (CAT, [20, 0, 30, 10]),  # on the dog
        (DOG, [20, 6, 30, 16]),  # IoU 40 / 160 with the dog: its class, but elsewhere
        (EMU, [60, 0, 70, 10]),  # nothing there
    ]
    kinds, missed = judge(detections, objects)
    assert kinds == ["right", "twice", "class", "place", "place"]
    assert missed == [False, True, True]


def test_an_object_goes_to_the_better_score_not_to_the_better_overlap():
    objects = [(CAT, [0, 0, 10, 10])]
    assert judge([(CAT, [0, 0, 10, 6]), (CAT, [0, 0, 10, 10])], objects) == (["right", "twice"], [False])


def test_a_detection_takes_the_object_that_it_overlaps_most_of_those_left():
    objects = [(CAT, [0, 0, 10, 10]), (CAT, [2, 0, 12, 10])]
    kinds, missed = judge([(CAT, [2, 0, 12, 10]), (CAT, [2, 0, 12, 10]), (CAT, [2, 0, 12, 10])], objects)
    assert kinds == ["right", "right", "twice"] and missed == [False, False]


def test_an_overlap_of_exactly_one_half_counts():
    assert judge([(CAT, [0, 0, 10, 5])], [(CAT, [0, 0, 10, 10])])[0] == ["right"]
    assert judge([(CAT, [0, 0, 10, 4.99])], [(CAT, [0, 0, 10, 10])])[0] == ["place"]


def test_what_the_image_is_not_labelled_for_is_not_judged():
    objects, elsewhere = [(CAT, [0, 0, 10, 10])], [30, 30, 40, 40]
    detections = [(DOG, elsewhere), (EMU, elsewhere), (CAT, elsewhere), (DOG, [0, 0, 10, 10])]
    kinds, _ = judge(detections, objects, labelled={CAT, EMU})
    assert kinds == ["open", "place", "place", "class"]
    kinds, _ = judge([(CAT, [0, 0, 10, 10]), (CAT, elsewhere)], objects, labelled={CAT}, not_exhaustive={CAT})
    assert kinds == ["right", "open"]
    region = np.array([[30.0, 30.0, 35.0, 40.0]])
    assert judge([(CAT, elsewhere), (CAT, [31, 30, 41, 40])], objects, regions=region)[0] == ["open", "place"]


def test_nothing_detected_or_nothing_there():
    assert judge([], [(CAT, [0, 0, 1, 1])]) == ([], [True])
    assert judge([(CAT, [0, 0, 1, 1])], []) == (["place"], [])


boxes = st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)).map(
    lambda t: (t[0], [t[1], t[2], t[1] + t[3], t[2] + t[4]])
)


@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=6))
@settings(deadline=None, max_examples=60)
def test_each_object_is_found_at_most_once(detections, objects):
    kinds, missed = judge(detections, objects)
    assert len(kinds) == len(detections)
    assert kinds.count("right") + sum(missed) == len(objects)
    if detections:  # a better one comes first, so the last takes nothing from the others
        assert judge(detections[:-1], objects)[0] == kinds[:-1]


def pictures(page: str) -> list[np.ndarray]:
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))).astype(int) for source in sources]


def has_color(picture: np.ndarray, kind: str) -> bool:
    """Whether enough pixels of a picture are of a kind's colour, as nearly as JPEG keeps it."""
    return (np.abs(picture - np.array(COLORS[kind])).max(axis=2) < 25).sum() > 100


@pytest.fixture
def runs(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    return [FinishedRun(name, write_run(tmp_path / name, dataset)) for name in ("one", "two")]


def test_the_gallery_colours_the_errors(runs):
    """Two objects in each image, so two detections are shown of each.

    Image 1: a cat, right, and the same cat again; the dog is missed. Image 2: the dog, right; a cat where nothing is
    (and verified to be none); the emu is missed.
    """
    (runs[1].folder / "inference" / DATASET / "lvis_instances_results.json").write_text("[]")
    page = gallery([runs[0], FinishedRun("two", runs[1].folder)], DATASET)
    first, _, second, nothing = pictures(page)
    assert [kind for kind in COLORS if has_color(first, kind)] == ["right", "twice", "missed"]
    assert [kind for kind in COLORS if has_color(second, kind)] == ["right", "place", "missed"]
    assert [kind for kind in COLORS if has_color(nothing, kind)] == ["missed"]
    assert "one, image 1: 1 right, 1 twice, 1 missed" in page
    assert "2 right, 1 wrong place, 1 twice, 2 missed" in page  # one, in all
    assert "4 missed" in page  # two, in all


def test_a_score_threshold_shows_all_above_it(runs):
    page = gallery(runs[:1], DATASET, score_threshold=0.3)
    # Image 1: cat 0.75, cat 0.5, an emu on the dog 0.375.
    assert "one, image 1: 1 right, 1 wrong class, 1 twice, 1 missed" in page
    assert "one, image 2: 1 right, 1 missed" in page


def test_a_missing_image_is_named(runs, tmp_path):
    (tmp_path / "data" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png of made_up_val is missing"):
        gallery(runs, DATASET)
