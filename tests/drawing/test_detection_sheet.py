"""Pictures of detections beside the ground truth."""

import pytest

from eql_d2.drawing.detection_sheet import save_detection_pictures
from eql_d2.errors import UserError


def test_a_missing_image_is_named(tiny_set, tmp_path):
    results, output = tmp_path / "results.json", tmp_path / "sheet.png"
    results.write_text("[]")
    with pytest.raises(UserError, match=f"^Image {tmp_path}/.*jpg is missing or unreadable.$"):
        save_detection_pictures({"softmax": results}, tiny_set / "val.json", tmp_path, output)
    assert not output.exists()
