"""The page about a dataset: its numbers are those of loops over the JSON; it stands alone and is well-formed."""

import json
import re
from collections import Counter, defaultdict
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eql_d2.analysis.dataset_numbers import by_frequency, instance_bins, tail_curve, tail_rows
from eql_d2.analysis.dataset_report import dataset_page
from eql_d2.data.category_counts import count_annotations
from eql_d2.data.checks.doctor import examine_dataset
from eql_d2.long_tail import LVIS_COUNT_FILES, CategoryCounts, read_count_file
from tests.data.small_set import make_content, write_set

VOID = {"meta", "br", "link", "img", "input", "hr"}


class PageReader(HTMLParser):
    """Text of the page's table cells; fails on tags that do not close."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows, self.ids, self.links, self._cell = [], [], [], [], None
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("src", "href", "xlink:href", "data") if key in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


def numbers_by_loop(path: Path) -> dict:
    """Numbers of an annotation file, counted one by one."""
    content = json.loads(path.read_text())
    images, instances = defaultdict(set), Counter()
    for annotation in content["annotations"]:
        images[annotation["category_id"]].add(annotation["image_id"])
        instances[annotation["category_id"]] += 1
    image_counts = {c["id"]: len(images[c["id"]]) for c in content["categories"]}
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    return {"images": image_counts, "instances": instances, "annotated": len(annotated), "content": content}


def check_page_numbers(path):
    expected, check = numbers_by_loop(path), examine_dataset(path)
    counts, content = expected["images"], expected["content"]
    rows = {row[0]: row[1:] for row in PageReader(dataset_page(check)).rows if row}

    def number(label):
        return int(rows[label][0].replace(",", ""))

    assert number("images") == len(content["images"])
    assert number("images with annotations") == expected["annotated"]
    assert number("annotations") == number("instances") == len(content["annotations"])
    assert number("classes") == len(content["categories"])
    assert number("classes without instances") == sum(count == 0 for count in counts.values())
    assert number("rare classes (r, at most 10 images, or none)") == sum(count <= 10 for count in counts.values())
    assert number("common classes (c, 11 to 100 images)") == sum(10 < count <= 100 for count in counts.values())
    assert number("frequent classes (f, more than 100 images)") == sum(count > 100 for count in counts.values())
    for label, low, high in (("below 10", 0, 10), ("10 to 99", 10, 100), ("100 to 999", 100, 1000)):
        inside = [c for c in counts if low <= expected["instances"][c] < high]
        assert [rows[label][i] for i in (0, 2)] == [
            f"{len(inside):,}",
            f"{sum(expected['instances'][c] for c in inside):,}",
        ]
    names = {c["id"]: c["name"] for c in content["categories"]}
    top = max(counts, key=lambda c: (counts[c], expected["instances"][c]))
    assert rows[names[top]] == [
        str(top),
        "r" if counts[top] <= 10 else "c" if counts[top] <= 100 else "f",
        f"{counts[top]:,}",
        f"{expected['instances'][top]:,}",
    ]
    for row in tail_rows(check.sets[0].counts):
        tail = [n for n in counts.values() if n / expected["annotated"] < row.lambda_]
        assert row.classes == len(tail)
        assert row.ratio == pytest.approx(sum(tail) / sum(counts.values()))


def test_numbers_of_a_generated_set(tiny_set):
    check_page_numbers(tiny_set / "train.json")


def test_numbers_of_real_files(shared_data):
    check_page_numbers(shared_data / "lvis_v0.5_val_100.json")
    check_page_numbers(shared_data / "coco_photos_lvis_v1" / "train.json")


@pytest.mark.parametrize(
    ("version", "lambda_", "classes", "percent", "bins"),
    [("v0.5", 0.00177, 915, 9.09, [294, 453, 302, 181]), ("v1", 0.0011, 815, 5.89, [200, 412, 334, 257])],
)
def test_numbers_of_lvis(version, lambda_, classes, percent, bins):
    """As computed from the official tables, which the EQL and BAGS papers agree with."""
    counts = read_count_file(str(LVIS_COUNT_FILES[f"lvis_{version}"]))
    (row,) = (row for row in tail_rows(counts) if row.lambda_ == lambda_)
    assert (row.classes, round(100 * row.ratio, 2), row.is_papers) == (classes, percent, True)
    assert [bin_.classes for bin_ in instance_bins(counts, (10, 100, 1000))] == bins


def counts_of(image_counts, num_images):
    ids = tuple(range(1, len(image_counts) + 1))
    return CategoryCounts(ids, tuple(f"c{i}" for i in ids), tuple(image_counts), tuple(image_counts), num_images)


def test_tail_curve_by_hand():
    frequencies, ratios = tail_curve(counts_of((6, 1, 0, 1, 2), 10))
    assert frequencies.tolist() == pytest.approx([0.1, 0.2, 0.6])
    assert ratios.tolist() == pytest.approx([0.2, 0.4, 1.0])
    assert by_frequency(counts_of((6, 1, 0, 1, 2), 10)) == [0, 4, 1, 3]
    assert max(row.lambda_ for row in tail_rows(counts_of((6, 1, 2), 10))) <= 1
    on_the_edge = tail_rows(counts_of((3, 3000), 10_000))  # 3 / 10,000 is no less than 0.0003
    assert [(row.classes, row.ratio) for row in on_the_edge if row.lambda_ == 0.0003] == [(0, 0)]


def check_stands_alone(page):
    reader = PageReader(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert all(link.startswith(("#", "data:image/")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    assert set(re.findall(r"https?://[^\s\"']+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    assert not re.search("#0[0-9]0[0-9]0[0-9]", page)  # no placeholder colour is left
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    return reader


def test_the_page_stands_alone(tiny_set):
    page = dataset_page(examine_dataset(tiny_set / "train.json", val_annotation_file=tiny_set / "val.json"))
    check_stands_alone(page)
    assert page.count("<svg") == 3
    assert len(page) < 200_000


def test_names_are_no_markup(tmp_path):
    content = make_content()
    content["categories"][0]["name"] = evil = "<script>alert('&')</script>"
    content["categories"].append({"id": 9, "name": "</p><b>none"})
    path = write_set(tmp_path, "a<b>&.json", content)
    page = dataset_page(examine_dataset(path))
    assert "<script>alert" not in page
    assert any(row[:1] == [evil] for row in check_stands_alone(page).rows)


@pytest.mark.parametrize("image_counts", [(1,), (0, 0, 3), (5, 5, 5), (2000, 1)])
def test_few_classes_make_a_page_too(tmp_path, image_counts):
    content = make_content(1)
    content["images"] = [{**content["images"][0], "id": n} for n in range(max(image_counts))]
    content["categories"] = [{"id": i, "name": f"c{i}"} for i in range(len(image_counts))]
    content["annotations"] = [
        {**make_content(1)["annotations"][0], "id": 5000 * c + n, "image_id": n, "category_id": c}
        for c, count in enumerate(image_counts)
        for n in range(count)
    ]
    path = write_set(tmp_path, "train.json", content)
    page = dataset_page(examine_dataset(path))
    assert check_stands_alone(page)
    assert page.count("<svg") == 3
    assert count_annotations(str(path)).image_counts == image_counts


def test_all_classes_have_a_picture_and_a_row(tmp_path):
    content = make_content(6)
    path = write_set(tmp_path, "train.json", content)
    page = dataset_page(examine_dataset(path, tmp_path, val_annotation_file=path, val_image_root=tmp_path, workers=1))
    rows = check_stands_alone(page).rows
    assert ["", "class", "id", "group", "images", "instances", "instances in val"] in rows
    assert [row[1:] for row in rows if row[:1] == [""] and len(row) == 7][1:] == [
        ["cat", "3", "r", "3", "3", "3"],
        ["dog", "5", "r", "3", "3", "3"],
    ]
    assert page.count('<img alt="cat"') == page.count('<img alt="dog"') == 1


def test_nothing_annotated(tmp_path):
    content = make_content(3)
    content["annotations"] = []
    page = dataset_page(examine_dataset(write_set(tmp_path, "test.json", content)))
    assert ["images", "3"] in check_stands_alone(page).rows
    assert "<svg" not in page
