"""The full list of a dataset's classes, with a picture of each, and the sizes of their objects."""

import html
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from eql_d2.analysis.charts import Palette, page_figure
from eql_d2.analysis.page import html_table, picture_url
from eql_d2.data.checks.doctor import CheckedSet
from eql_d2.data.pictures import BROKEN, read_picture
from eql_d2.long_tail import CategoryCounts

THUMBNAIL = 56  # pixels
MOST_THUMBNAILS = 200

SORTING = """
for (const header of document.querySelectorAll("table.sortable th")) {
  header.tabIndex = 0;
  const sort = () => {
    const body = header.closest("table").tBodies[0], column = header.cellIndex;
    const upward = header.dataset.order !== "up";
    for (const other of header.parentNode.cells) delete other.dataset.order;
    header.dataset.order = upward ? "up" : "down";
    const value = row => row.cells[column].innerText.replaceAll(",", "");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const order = isNaN(x) || isNaN(y) || x === "" || y === "" ? x.localeCompare(y) : x - y;
      return upward ? order : -order;
    });
    body.append(...rows);
  };
  header.addEventListener("click", sort);
  header.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
"""
STYLE = """
table.sortable th { cursor: pointer; }
table.sortable th[data-order="up"]::after { content: " ↑"; }
table.sortable th[data-order="down"]::after { content: " ↓"; }
table.sortable img { display: block; border-radius: 3px; }
"""


def class_table(train: CheckedSet, others: Sequence[CheckedSet] = ()) -> str:
    """A table of all classes: a picture, id, group, images and instances, and those of other sets.

    Args:
        train: the set whose counts make the groups.
        others: sets of the same classes; those of other classes are left out.
    """
    _, counts = train.readable
    sets = [part for part in others if part.counts is not None and part.counts.names == counts.names]
    thumbnails = _thumbnails(train, counts)
    headers = ["", "class", "id", "group", "images", "instances", *(f"instances in {part.name}" for part in sets)]
    order = np.argsort(-np.array(counts.image_counts), kind="stable").tolist()
    rows = [
        (
            thumbnails.get(index, ""),
            html.escape(counts.names[index]),
            str(counts.category_ids[index]),
            f'<span class="group-{(letter := counts.frequency_groups[index])}">{letter}</span>',
            counts.image_counts[index],
            counts.instance_counts[index],
            *(part.readable[1].instance_counts[index] for part in sets),
        )
        for index in order
    ]
    table = html_table(headers, rows, numbers=[2, 4, 5, *range(6, len(headers))])
    return table.replace("<table>", '<table class="sortable">', 1)


def _thumbnails(part: CheckedSet, counts: CategoryCounts) -> dict[int, str]:
    """An object of each class as an <img> element, of at most :data:`MOST_THUMBNAILS`; none without images."""
    annotations, _ = part.readable
    if part.image_root is None or part.present is None:
        return {}
    best: dict[int, tuple[float, int, Sequence[float]]] = {}
    place_of = {category_id: index for index, category_id in enumerate(counts.category_ids)}
    for place in np.flatnonzero(part.present).tolist():
        wanted = range(*annotations.annotation_starts[place : place + 2].tolist())
        classes = set(annotations.categories[wanted.start : wanted.stop].tolist())
        if len(best) >= MOST_THUMBNAILS and not classes - set(best):
            continue
        if classes <= set(best):
            continue
        for record in annotations.records(place)[1]:
            index = place_of[record["category_id"]]
            area = record["bbox"][2] * record["bbox"][3]
            known = best.get(index)
            if known is None or (known[1] == place and area > known[0]):
                best[index] = (area, place, record["bbox"])
        if len(best) >= min(MOST_THUMBNAILS, counts.num_classes):
            break
    pictures = {}
    for index, (_, place, box) in list(best.items())[:MOST_THUMBNAILS]:
        picture = _thumbnail(f"{part.image_root}/{part.paths[place]}", box)
        if picture:
            name = html.escape(counts.names[index], quote=True)
            pictures[index] = f'<img alt="{name}" width="{THUMBNAIL}" height="{THUMBNAIL}" src="{picture}">'
    return pictures


def _thumbnail(path: str, box: Sequence[float]) -> str | None:
    """A square around an object, as a data URL; None where the image cannot be read."""
    try:
        pixels = read_picture(path, "RGB")
    except BROKEN:
        return None
    x, y, w, h = box
    half = max(w, h, 8) * 0.6
    corners = (round(x + w / 2 - half), round(y + h / 2 - half), round(x + w / 2 + half), round(y + h / 2 + half))
    square = Image.fromarray(pixels).crop(corners).resize((THUMBNAIL, THUMBNAIL))
    return picture_url(np.asarray(square), quality=70)


def object_sizes(part: CheckedSet) -> np.ndarray:
    """(A,) square roots of the areas of all boxes, in pixels; regions to ignore are left out."""
    annotations, _ = part.readable
    boxes = [r["bbox"] for place in range(len(annotations)) for r in annotations.records(place)[1]]
    sides = np.array(boxes, np.float64).reshape(-1, 4)[:, 2:].prod(axis=1)
    return np.sqrt(np.maximum(sides, 0))[~annotations.regions]


def size_picture(sizes: np.ndarray) -> str:
    """A histogram of object sizes, on a logarithmic axis, with COCO's bounds of small and large; an <svg> element."""

    def draw(axes: Axes, palette: Palette) -> None:
        positive = sizes[sizes > 0]
        edges = np.geomspace(max(positive.min(), 1), max(positive.max(), 2) * 1.01, 30)
        axes.hist(positive, bins=edges.tolist(), color=palette.groups["c"])
        axes.set_xscale("log")
        for bound in (32, 96):
            axes.axvline(bound, color=palette.ink, linestyle="--", linewidth=1)
        axes.set_xlabel("side of a square of the same area, in pixels")
        axes.set_ylabel("instances")

    return page_figure(draw, "Number of objects of each size, on a logarithmic axis")
