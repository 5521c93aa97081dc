"""A small set in the form of the Open Images Challenge, made from an EmojiLVIS set: CSV files, hierarchy, labels."""

import csv
import json

import orjson

# The six classes of the tiny set, below classes of Open Images' kind: "food" has kinds of two levels, and popcorn is
# food and a toy.
LABELS = {name: f"/m/{name[:4]}" for name in ("ear_of_maize", "hatching_chick", "left_facing_fist")}
LABELS |= {name: f"/m/{name[:4]}" for name in ("popcorn", "scroll", "sleeping_accommodation")}
PARENTS = {"food": "/m/food", "snack": "/m/snack", "toy": "/m/toy"}
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": "/m/food",
            "Subcategory": [
                {"LabelName": "/m/ear_"},
                {"LabelName": "/m/snack", "Subcategory": [{"LabelName": "/m/popc"}, {"LabelName": "/m/hatc"}]},
            ],
        },
        {"LabelName": "/m/toy", "Subcategory": [{"LabelName": "/m/popc"}], "Part": [{"LabelName": "/m/left"}]},
        {"LabelName": "/m/left"},
        {"LabelName": "/m/scro"},
        {"LabelName": "/m/slee"},
    ],
}
NUM_CLASSES = len(LABELS) + len(PARENTS)
SPLITS = {"train": "train", "val": "validation"}


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header, *rows] if header else rows)


def write_open_images_set(tiny_set, folder):
    """Write the official files of both splits, and link the images.

    Every fifth box is said to be around a group. Images are labelled as EmojiLVIS says, and where neither food nor
    toy is verified, one of three has a label that says so.
    """
    folder.mkdir(parents=True)
    (folder / "challenge-2019-label500-hierarchy.json").write_text(json.dumps(HIERARCHY))
    names = [(label, name) for name, label in (LABELS | PARENTS).items()]
    write_csv(folder / "challenge-2019-classes-description-500.csv", None, names)
    for split, official in SPLITS.items():
        (folder / official).symlink_to(tiny_set / split)
        content = orjson.loads((tiny_set / f"{split}.json").read_bytes())
        label_of = {category["id"]: LABELS[category["name"]] for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        name_of = {
            image_id: image["file_name"].split("/")[-1].removesuffix(".jpg") for image_id, image in images.items()
        }
        boxes = []
        for number, annotation in enumerate(content["annotations"]):
            image, (x, y, width, height) = images[annotation["image_id"]], annotation["bbox"]
            corners = (x / image["width"], (x + width) / image["width"])
            corners += (y / image["height"], (y + height) / image["height"])
            numbers = [f"{value:.6f}" for value in corners]
            label = label_of[annotation["category_id"]]
            boxes.append((name_of[image["id"]], label, *numbers, int(number % 5 == 4)))
        labels = [(image_id, label, 1) for image_id, label, *_ in boxes]
        labels += [(name_of[i], label_of[c], 0) for i, image in images.items() for c in image["neg_category_ids"]]
        labels += [(name_of[i], "/m/toy", 0) for i in images if i % 3 == 0 and (name_of[i], "/m/popc", 1) not in labels]
        prefix = f"challenge-2019-{official}-detection"
        columns = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
        write_csv(folder / f"{prefix}-bbox.csv", columns, boxes)
        write_csv(folder / f"{prefix}-human-imagelabels.csv", ("ImageID", "LabelName", "Confidence"), labels)
    return folder
