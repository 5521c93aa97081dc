"""Run lengths in whatever form tools write them: one rule for annotations, results, ground truth and ensembles."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from eql_d2.data.annotations.cache import open_annotations
from eql_d2.data.checks.mask_findings import mask_findings
from eql_d2.errors import UserError
from eql_d2.evaluation.evaluate_files import evaluate_files
from eql_d2.evaluation.results.ensemble import merge_results, read_images_and_categories
from eql_d2.evaluation.results.ensemble_rules import Member, Rules

HEIGHT, WIDTH = 20, 30
SIZE = [HEIGHT, WIDTH]
MASK = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
MASK[4:12, 5:20] = 1
COUNTS = mask_api.encode(MASK)["counts"]
RUNS = [104, *[8, 12] * 14, 8, 208]  # down the columns: 5 whole ones and 4 pixels, then 8 of each of 15


def write(folder, segmentation):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 4, 15, 8], "area": 120, "segmentation": segmentation}
        ],
    }
    result = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [5, 4, 15, 8], "segmentation": segmentation}
    (folder / "set.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps([result]))
    return folder / "set.json", folder / "results.json"


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": SIZE, "counts": COUNTS.decode()},
        {"size": SIZE, "counts": RUNS},
        {"size": [20.0, 30.0], "counts": [float(run) for run in RUNS]},
        {"size": ["20", "30"], "counts": [str(run) for run in RUNS]},
        [{"size": SIZE, "counts": RUNS}],
    ],
)
def test_forms_that_are_read(tmp_path, segmentation):
    annotations, results = write(tmp_path, segmentation)
    assert open_annotations(annotations).findings == ()
    assert evaluate_files(annotations, results, ["segm"])["segm"]["AP"] == pytest.approx(100)
    members = [Member(str(results), 1.0, None)] * 2
    merge_results(read_images_and_categories(annotations), members, tmp_path / "merged.json", Rules())
    (merged,) = json.loads((tmp_path / "merged.json").read_text())
    assert mask_api.decode(merged["segmentation"]).tolist() == MASK.tolist()


NOT_ITS_SIZE = "an RLE whose counts do not add up to its size"
OF_NUMBERS = f"{NOT_ITS_SIZE} (they are a text of numbers; write a list of them)"
NEITHER = "an RLE whose counts are neither a text nor a list of whole numbers"


@pytest.mark.parametrize(
    ("segmentation", "complaint"),
    [
        ({"size": SIZE, "counts": str(COUNTS)}, f"{NOT_ITS_SIZE} (they are Python's text of bytes; write"),
        ({"size": SIZE, "counts": str(RUNS)}, OF_NUMBERS),
        ({"size": SIZE, "counts": " ".join(map(str, RUNS))}, OF_NUMBERS),
        ({"size": SIZE, "counts": "eJwLMA8zNQEABjgBrA=="}, f"{NOT_ITS_SIZE} (they are packed by zlib"),
        ({"size": SIZE, "counts": RUNS[:-1]}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": COUNTS.decode()[:-1]}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": list(COUNTS)}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": ""}, NOT_ITS_SIZE),
        ({"size": SIZE[::-1], "counts": COUNTS.decode()}, "an RLE of another size than its image ([30, 20], where"),
        ({"size": SIZE, "counts": None}, NEITHER),
        ({"size": SIZE, "counts": {"0": 3}}, NEITHER),
        ({"size": SIZE, "counts": [RUNS]}, NEITHER),
        ({"size": "20,30", "counts": RUNS}, "an RLE without a size [height, width] (it has '20,30')"),
        ({"counts": RUNS}, "an RLE without a size [height, width] (it has None)"),
        ([{"size": SIZE, "counts": RUNS}] * 2, "a list of several run lengths for its mask; merge them into one"),
    ],
)
def test_forms_that_are_named(tmp_path, segmentation, complaint):
    """Whoever reads them says the same; a value that is no mask at all is refused by the parser of annotations."""
    faulty, results = write(tmp_path, segmentation)
    (tmp_path / "good").mkdir()
    annotations, good_results = write(tmp_path / "good", {"size": SIZE, "counts": RUNS})
    said = []
    for evaluate in (
        lambda: evaluate_files(annotations, results, ["segm"]),
        lambda: evaluate_files(faulty, good_results, ["segm"]),
        lambda: merge_results(
            read_images_and_categories(annotations), [Member(str(results), 1.0, None)], tmp_path / "out.json", Rules()
        ),
    ):
        with pytest.raises(UserError) as raised:
            evaluate()
        said.append(str(raised.value))
    assert all(f"has {complaint}" in sentence for sentence in said)
    try:
        (finding,) = open_annotations(faulty).findings
        assert f"has {complaint}" in finding.sentence
    except UserError as error:
        assert "annotations[0]" in str(error)


def test_masks_along_rows_are_told_by_their_boxes(tmp_path):
    """Their counts add up, and no format says the order: they lie elsewhere than their boxes."""
    runs_of_rows = [4 * WIDTH + 5, *[15, 15] * 7, 15, HEIGHT * WIDTH - 11 * WIDTH - 20]
    path, _ = write(tmp_path, {"size": SIZE, "counts": runs_of_rows})
    assert "mask that leaves its box" in {finding.kind for finding in mask_findings(open_annotations(path))}
    path.write_text(path.read_text().replace(json.dumps(runs_of_rows), json.dumps(RUNS)))
    assert mask_findings(open_annotations(path)) == ()
