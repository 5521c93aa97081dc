"""A small dataset in COCO's format with real pictures, to break on purpose."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 24


def write_picture(path: Path, seed: int, **options) -> None:
    """A noisy JPEG or PNG, so that a cut leaves decodable and undecodable parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def make_content(num_images: int = 4, first: int = 0) -> dict:
    """Annotations of ``num_images`` images, one square each of the classes cat, dog in turns."""
    numbers = range(first, first + num_images)
    square = [4, 4, 12, 4, 12, 12, 4, 12]
    return {
        "images": [
            {"id": 10 + n, "file_name": f"photos/{n:03d}.jpg", "width": WIDTH, "height": HEIGHT} for n in numbers
        ],
        "annotations": [
            {
                "id": 100 + n,
                "image_id": 10 + n,
                "category_id": 5 if n % 2 else 3,
                "bbox": [4, 4, 8, 8],
                "area": 64,
                "segmentation": [list(square)],
                "iscrowd": 0,
            }
            for n in numbers
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write_set(folder: Path, name: str, content: dict) -> Path:
    """Write the annotation file, and a picture of its own for each image that has none yet."""
    for image in content["images"]:
        path = folder / image.get("file_name", "unnamed.jpg")
        if not path.exists():
            write_picture(path, seed=image["id"])
    (folder / name).write_text(json.dumps(content))
    return folder / name
