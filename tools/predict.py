"""Detect objects in images, folders of images, or videos.

Writes into the folder OUTPUT
  pictures/          each image as a JPEG, each video as an MP4, with the masks,
                     boxes, names and scores of detections above --threshold
  results.json       all detections, also those below: a list in the LVIS format
  images.json        what the image ids stand for (file, frame, picture), and
                     the categories
  contact_sheet.jpg  all images at a glance, if there is more than one (100 of
                     them if there are more)

A checkpoint of this project knows its config and its class names; neither the
run nor the dataset is needed. One from elsewhere needs --config-file. Exit
status: 0 all inputs done, 3 some could not be read and were skipped, 1 an
error.

    python tools/predict.py --weights output/demo/bags/model_final.pth \\
        photos/ clip.mp4 --output predicted
"""

import argparse
import logging
import re
import sys
from pathlib import Path

from eql_d2.errors import UserError
from eql_d2.known_warnings import silence_known_warnings
from eql_d2.prediction.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_inputs
from eql_d2.prediction.job import PredictionJob, prepare_output
from eql_d2.prediction.known_ids import KnownImages
from eql_d2.prediction.predictor import Predictor

SKIPPED = 3


def split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part inputs from the KEY VALUE pairs behind them: from the first that looks like a key and is no file."""
    suffixes = {suffix.upper() for suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES}
    for index, argument in enumerate(arguments):
        is_key = re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+", argument) and Path(argument).suffix not in suffixes
        if is_key and not Path(argument).exists():
            return arguments[:index], arguments[index:]
    return arguments, []


def main() -> int:
    """Predict as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, video, or folder (with those below it)")
    parser.add_argument("--weights", required=True, help="checkpoint, e.g. RUN/model_final.pth")
    parser.add_argument(
        "--output", required=True, type=Path, help="folder; files of an earlier prediction are replaced"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of what is drawn (default: 0.3)")
    parser.add_argument("--max-detections", type=int, help="most detections of an image (default: the config's)")
    parser.add_argument("--annotations", help="LVIS- or COCO-format file whose image ids the results are to have")
    parser.add_argument("--config-file", default="", help="config of the training, if the checkpoint has none")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module if the checkpoint's config asks for it, as one with a predictor of your own does",
    )
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').rstrip()} [KEY VALUE ...]"
    arguments = parser.parse_intermixed_args()
    silence_known_warnings()
    paths, overrides = split_overrides(arguments.inputs)
    inputs = find_inputs(paths, arguments.output)
    known = KnownImages(arguments.annotations, [item.path for item in inputs]) if arguments.annotations else None
    prepare_output(arguments.output)
    predictor = Predictor(
        arguments.weights,
        arguments.config_file,
        overrides,
        score_threshold=None,  # the results hold all that an evaluation would
        max_detections=arguments.max_detections,
        imports=arguments.imports,
    )
    if known is None:
        job = PredictionJob(predictor, arguments.output, draw_above=arguments.threshold)
    else:
        predictor.take_category_ids(known.categories, arguments.annotations)
        for sentence in known.remarks:
            print(f"warning: {sentence}", file=sys.stderr)
        job = PredictionJob(predictor, arguments.output, known.ids, known.first_free_id, draw_above=arguments.threshold)
    summary = job.run(inputs)
    print(
        f"{summary.num_detections} detections in {summary.num_images} picture{'s' * (summary.num_images != 1)}, "
        f"{summary.num_drawn} of them drawn: {arguments.output}"
    )
    if not summary.num_drawn:
        best = f"the best score is {summary.best_score:.3f}; lower --threshold to see more"
        if not summary.num_detections:
            best = "nor above the least score that the config keeps (MODEL.ROI_HEADS.SCORE_THRESH_TEST)"
        print(f"Nothing scored above {arguments.threshold}, {'and ' * bool(summary.num_detections)}{best}.")
    if summary.skipped:
        print(f"warning: {len(summary.skipped)} of {len(inputs)} inputs were skipped.", file=sys.stderr)
        return SKIPPED
    return 0


if __name__ == "__main__":
    # Tensors that do not fit the model end the tool with one sentence; the list is not needed before it.
    logging.getLogger("fvcore.common.checkpoint").setLevel(logging.ERROR)
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
