"""What federated labels do to a comparison: the same detections, judged by few, more and all verified classes an image.

    python benchmarks/federation.py output/tables/emoji_federated --annotations \\
        datasets/emoji_lvis/federated/test.json [--json FILE]

Takes the results files of finished runs, FOLDER/ROW/seed_N/inference/DATASET/lvis_instances_results.json. The test set
of EmojiLVIS has every object annotated, so that a class without annotation in an image is truly absent: any number of
those may be called verified. The numbers are of box AP in percent, mean and standard error over the seeds.
"""

import argparse
import json
import logging
import random
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from eql_d2.data.emoji_lvis.federation import verified_shares
from eql_d2.evaluation.evaluate_files import evaluate_files

NEGATIVES = (2, None, 30, 299)  # verified absent classes an image; None: those of the file
METRICS = ("AP", "APr", "APc", "APf")


def with_negatives(content: dict[str, Any], number: int | None) -> dict[str, Any]:
    """The annotations with another number of verified absent classes an image: fewer of them, or further ones."""
    if number is None:
        return content
    positives = defaultdict(set)
    for annotation in content["annotations"]:
        positives[annotation["image_id"]].add(annotation["category_id"])
    classes = [category["id"] for category in content["categories"]]
    draw, images = random.Random(0), []
    for image in content["images"]:
        listed = draw.sample(image["neg_category_ids"], len(image["neg_category_ids"]))
        absent = set(classes) - positives[image["id"]] - set(listed)
        images.append({**image, "neg_category_ids": [*listed, *draw.sample(sorted(absent), len(absent))][:number]})
    return {**content, "images": images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the table's runs")
    parser.add_argument("--annotations", type=Path, required=True, help="the test set's annotation file")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    content = json.loads(args.annotations.read_text())
    letters = {category["id"]: category["frequency"] for category in content["categories"]}
    results = sorted(args.folder.glob("*/seed_*/inference/*/lvis_instances_results.json"))
    values: dict[str, dict[int | None, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    shares = {}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(results) * len(NEGATIVES), unit="evaluation") as bar:
        for number in NEGATIVES:
            changed = with_negatives(content, number)
            shares[number] = verified_shares(changed, letters)["all"]
            path = Path(folder, "annotations.json")
            path.write_text(json.dumps(changed))
            for file in results:
                row = file.parents[3].name
                values[row][number].append(evaluate_files(str(path), str(file), ["bbox"])["bbox"])
                bar.update()
    records = [
        {
            "row": row,
            "negatives": number,
            "verified_percent": 100 * shares[number],
            "seeds": len(of_number),
            **{name: statistics.mean(metrics[name] for metrics in of_number) for name in METRICS},
            "error_of_AP": statistics.stdev(m["AP"] for m in of_number) / len(of_number) ** 0.5
            if len(of_number) > 1
            else None,
        }
        for row, of_row in values.items()
        for number, of_number in of_row.items()
    ]
    header = ["row", *(f"{100 * share:.0f} % verified" for share in shares.values())]
    by_row = defaultdict(list)
    for record in records:
        by_row[record["row"]].append(f"{record['AP']:.1f} / {record['APr']:.1f}")
    print("Box AP / APr by the share of the class-image pairs that are verified")
    print(tabulate([[row, *cells] for row, cells in by_row.items()], header))
    if args.json:
        Path(args.json).write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
