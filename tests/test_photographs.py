"""Real photographs through the real tool: EQL with LVIS v1's 1203 classes over-fits to a handful of them."""

import csv
import json
import subprocess
import sys

import orjson
import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_detector_overfits(shared_data, tmp_path):
    source = shared_data / "coco_photos_lvis_v1"
    content = orjson.loads((source / "val.json").read_bytes())
    content["images"] = content["images"][:5]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    few, run = tmp_path / "few.json", tmp_path / "run"
    few.write_bytes(orjson.dumps(content))

    custom = [{"name": "few", "annotations": str(few), "images": str(source)}]
    overrides = ["DATASETS.CUSTOM", str(custom), "DATASETS.TRAIN", "('few',)", "DATASETS.TEST", "('few',)"]
    # Twice the config's steps: after those, AP still hangs on the rounding of the last digit.
    overrides += ["SOLVER.MAX_ITER", "300", "SOLVER.STEPS", "(240,)"]
    command = [sys.executable, "tools/train_net.py", "--config-file", "configs/photographs/overfit.yaml"]
    done = subprocess.run(
        [*command, *overrides, "OUTPUT_DIR", run, "MODEL.DEVICE", "cpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses[-1] < 0.75 * losses[0]
    final = {key: value for line in lines for key, value in line.items()}
    assert final["bbox/AP"] > 20
    assert final["segm/AP"] > 8
    assert final["bbox/APf"] > 0  # of LVIS v1's frequent classes; no rare one is in the few images
    assert final["box_head/foreground_class_accuracy"] > 0.5

    rows = list(csv.DictReader((run / "inference" / "few" / "per_class_ap_bbox.csv").open()))
    assert len(rows) == 1203
    there = {annotation["category_id"] for annotation in content["annotations"]}
    assert {int(row["category_id"]) for row in rows if row["AP"] != "nan"} == there
