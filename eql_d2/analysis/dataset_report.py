"""The page about a checked dataset: one HTML file that needs no server and nothing from elsewhere."""

import html
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from eql_d2.analysis import finding_pictures
from eql_d2.analysis.dataset_classes import SORTING, STYLE, class_table, object_sizes, size_picture
from eql_d2.analysis.dataset_numbers import by_frequency, instance_bins, tail_rows
from eql_d2.analysis.dataset_pictures import long_tail_picture, tail_ratio_picture
from eql_d2.analysis.page import html_page, html_table
from eql_d2.data.checks.doctor import CheckedSet, DatasetCheck
from eql_d2.data.new_project.choices import method_of
from eql_d2.long_tail import CategoryCounts, lambda_for_tail_ratio, quantile_bin_edges, quantile_thresholds

_SHOWN = 15
_AUTO_TAIL_RATIO = 0.09  # default of MODEL.LONG_TAIL.TAIL_RATIO


def dataset_page(check: DatasetCheck, bin_edges: Sequence[int] = (10, 100, 1000)) -> str:
    """The page of a check, as HTML.

    Args:
        check: what :func:`eql_d2.data.checks.doctor.examine_dataset` found.
        bin_edges: numbers of instances that part the classes into BAGS's bins.
    """
    train = check.sets[0]
    name = html.escape(train.annotation_file.name)
    pictures = finding_pictures.finding_pictures(check)
    parts = [f"<h1>{name}</h1>", _verdict(check), _scope(check), "<h2>Findings</h2>", _findings(check, pictures)]
    readable = [part for part in check.sets if part.counts is not None]
    if readable:
        parts += ["<h2>Numbers</h2>", _numbers(readable)]
    if train.counts is not None and len(object_sizes(train)):
        parts += [_sizes(train)]
    if train.counts is not None and any(train.counts.image_counts):
        parts += [_long_tail(train.counts), _bins(train.counts, bin_edges), _extremes(train.counts)]
        parts += [_suggestions(train.counts)]
    parts += [_shown(check, pictures)]
    if train.counts is not None and any(train.counts.image_counts):
        parts += ["<h2>All classes</h2>", class_table(train, check.sets[1:])]
    for part in readable:
        parts.append(_empty_classes(part))
    title = f"{train.annotation_file.name}: dataset check"
    style = STYLE + finding_pictures.STYLE
    return html_page(title, parts, "tools/check_dataset.py", style=style, script=SORTING)


def verdict(check: DatasetCheck) -> str:
    """What the check comes to, in one line."""
    levels = Counter(finding.level for _, finding in check.findings)
    defects, remarks = levels["defect"], levels["remark"]
    text = f"{defects} {'kind' if defects == 1 else 'kinds'} of defect" if defects else "No defect"
    return text + (f", {remarks} {'remark' if remarks == 1 else 'remarks'}." if remarks else ".")


def scope(check: DatasetCheck) -> list[str]:
    """What was looked at, a sentence a set."""
    sentences = []
    for part in check.sets:
        if part.image_root is None:
            how = "annotations only; name the image folder to have the images checked, too"
        elif check.decoded:
            how = f"annotations, and every image in {os.path.abspath(part.image_root)} was decoded"
        else:
            how = f"annotations, and whether the images are in {os.path.abspath(part.image_root)}; none was decoded"
        sentences.append(f"{part.name}: {os.path.abspath(part.annotation_file)}: {how}.")
    return sentences


def _verdict(check: DatasetCheck) -> str:
    levels = [finding.level for _, finding in check.findings]
    worst = next((level for level in ("defect", "remark") if level in levels), "")
    return f'<p class="verdict {worst}">{verdict(check)}</p>'


def _scope(check: DatasetCheck) -> str:
    return "".join(f'<p class="soft">{html.escape(sentence)}</p>' for sentence in scope(check))


def _findings(check: DatasetCheck, pictures: Mapping[int, str]) -> str:
    """The table of findings, with links to the pictures of those that have some."""
    if not check.findings:
        return "<p>None.</p>"
    rows = [
        (
            f'<span class="level {finding.level}">{finding.level}</span>',
            where,
            html.escape(finding.kind),
            finding.count,
            html.escape(finding.sentence)
            + (f' <a class="more" href="#finding-{number}">See pictures</a>' if number in pictures else ""),
        )
        for number, (where, finding) in enumerate(check.findings)
    ]
    note = (
        "<p class='soft'>A defect is to be mended: training refuses to start with the same sentence. What only "
        "reading all images shows (broken ones, wrong sizes, images in both sets) is not looked for at its start. "
        "A remark is worth knowing; training goes on.</p>"
    )
    table = html_table(["", "set", "what", "how often", "the first case"], rows, numbers=[3], texts=[4])
    return f'{note}<div class="stacked">{table}</div>'


def _shown(check: DatasetCheck, pictures: Mapping[int, str]) -> str:
    """The pictures of findings, each under the name that the table links to."""
    if not pictures:
        return ""
    note = (
        '<p class="soft">Of each finding the first entry and the worst, with box and mask as the file has them; grey '
        "is beyond the image.</p>"
    )
    shown = [
        f'<h3 id="finding-{number}">{finding_pictures.finding_title(*check.findings[number])}</h3>{figures}'
        for number, figures in pictures.items()
    ]
    return f"<h2>Pictures of findings</h2>{note}{''.join(shown)}"


def _numbers(sets: Sequence[CheckedSet]) -> str:
    _, train = sets[0].readable
    columns = [_facts_of(part, train) for part in sets]
    rows = [[label, *(column[label] for column in columns)] for label in columns[0]]
    headers = ["", *(part.name for part in sets)] if len(sets) > 1 else ["", ""]
    note = '<p class="soft">Records with a defect are left out of all numbers.</p>'
    return html_table(headers, rows, numbers=range(1, len(headers))) + note


def _facts_of(part: CheckedSet, train: CategoryCounts) -> dict[str, Any]:
    """The facts of a set, its classes in the groups of the training set."""
    annotations, counts = part.readable
    instances = sum(counts.instance_counts)
    with_images = [count for count in counts.image_counts if count]
    groups = Counter(train.frequency_groups if train.names == counts.names else counts.frequency_groups)
    rare, common = train.thresholds.rare_max, train.thresholds.common_max
    return {
        "images": len(annotations),
        "images with annotations": counts.num_images,
        "annotations": len(annotations.categories),
        "instances": instances,
        "regions to ignore (crowds)": int(annotations.regions.sum()),
        "instances an annotated image": f"{instances / max(counts.num_images, 1):.1f}",
        "classes": counts.num_classes,
        "classes without instances": counts.num_classes - len(with_images),
        f"rare classes (r, at most {rare} images, or none)": groups["r"],
        f"common classes (c, {rare + 1} to {common} images)": groups["c"],
        f"frequent classes (f, more than {common} images)": groups["f"],
        "imbalance (images of the most over those of the rarest class)": (
            f"{max(with_images) / min(with_images):,.0f}" if with_images else "–"
        ),
    }


def _long_tail(counts: CategoryCounts) -> str:
    rows = [
        (f"{row.lambda_:.3g}", html.escape(row.origin), row.classes, f"{row.ratio:.2%}") for row in tail_rows(counts)
    ]
    return f"""<h2>Long tail</h2>
<div class="columns"><figure>{long_tail_picture(counts)}
<figcaption>Images of each class, the most frequent first. Classes without instances have no place here.</figcaption>
</figure><figure>{tail_ratio_picture(counts)}
<figcaption>Tail ratio TR(λ): the share of all class images that belong to classes below λ. Dashed: λ of the
papers.</figcaption></figure></div>
<h3>Thresholds for EQL (MODEL.LONG_TAIL.EQL.LAMBDA)</h3>
{html_table(["λ", "from", "classes in the tail", "TR(λ)"], rows, numbers=[0, 2, 3], texts=[1])}
<p class="soft">Frequencies are shares of the {counts.num_images:,} images that have annotations; a class is in the
tail if its frequency is below λ.</p>"""


def _sizes(train: CheckedSet) -> str:
    sizes = object_sizes(train)
    small, large = (sizes < 32).mean(), (sizes >= 96).mean()
    return f"""<h2>Sizes of objects</h2><figure>{size_picture(sizes)}
<figcaption>{small:.0%} of the objects are small and {large:.0%} large by COCO's bounds (dashed: 32 and 96 pixels); the
median is {np.median(sizes):.0f} pixels.</figcaption></figure>"""


def _suggestions(counts: CategoryCounts) -> str:
    """What ``auto`` would take, and what tools/start_project.py would write."""
    method = method_of(counts)
    image_counts = torch.tensor(counts.image_counts)
    lambda_ = min(lambda_for_tail_ratio(_AUTO_TAIL_RATIO, image_counts, counts.num_images), 1.0)
    thresholds = quantile_thresholds(counts.image_counts)
    rows = [
        ("MODEL.LONG_TAIL.EQL.LAMBDA", f"{lambda_:.4g}", "what auto takes"),
        ("MODEL.LONG_TAIL.BAGS.BIN_EDGES", str(quantile_bin_edges(counts.instance_counts, 4)), "what auto takes"),
        (
            "MODEL.LONG_TAIL.FREQUENCY_THRESHOLDS",
            f"({thresholds.rare_max}, {thresholds.common_max})",
            "what auto takes",
        ),
        ("MODEL.ROI_BOX_HEAD.PREDICTOR", method.predictor, html.escape(method.reason)),
        ("DATALOADER.SAMPLER_TRAIN", method.sampler, ""),
        ("DATALOADER.REPEAT_THRESHOLD", f"{method.repeat_threshold:g}", ""),
    ]
    note = '<p class="soft">tools/start_project.py writes a whole config, with these and its reasons.</p>'
    return f"<h2>For the config</h2>{html_table(['key', 'value', 'why'], rows, texts=[2])}{note}"


def _bins(counts: CategoryCounts, edges: Sequence[int]) -> str:
    bins = instance_bins(counts, edges)
    total = max(sum(bin_.instances for bin_ in bins), 1)
    rows = [
        (
            bin_.label,
            bin_.classes,
            _bar(bin_.classes / counts.num_classes),
            bin_.instances,
            _bar(bin_.instances / total),
        )
        for bin_ in bins
    ]
    headers = ["instances of a class", "classes", "", "instances", ""]
    return f"""<h2>Bins of BAGS (MODEL.LONG_TAIL.BAGS.BIN_EDGES = {tuple(edges)})</h2>
{html_table(headers, rows, numbers=[1, 3])}"""


def _bar(share: float) -> str:
    return f'<span class="bar" title="{share:.1%}"><span style="width:{100 * share:.1f}%"></span></span>'


def _extremes(counts: CategoryCounts) -> str:
    order = by_frequency(counts)
    return f"""<div class="columns"><section><h2>Most frequent classes</h2>
{_classes(counts, order[:_SHOWN])}</section><section><h2>Rarest classes that have instances</h2>
{_classes(counts, order[::-1][:_SHOWN])}</section></div>"""


def _classes(counts: CategoryCounts, indices: Sequence[int]) -> str:
    rows = [
        (
            html.escape(counts.names[index]),
            str(counts.category_ids[index]),
            f'<span class="group-{(letter := counts.frequency_groups[index])}">{letter}</span>',
            counts.image_counts[index],
            counts.instance_counts[index],
        )
        for index in indices
    ]
    return html_table(["class", "id", "group", "images", "instances"], rows, numbers=[1, 3, 4])


def _empty_classes(part: CheckedSet) -> str:
    _, counts = part.readable
    names = [
        f"{html.escape(name)} ({category_id})"
        for name, category_id, instances in zip(counts.names, counts.category_ids, counts.instance_counts, strict=True)
        if not instances
    ]
    if not names:
        return ""
    summary = f"{len(names)} {'class' if len(names) == 1 else 'classes'}"
    return f"""<h2>Classes without instances in {html.escape(part.annotation_file.name)}</h2>
<details><summary>{summary}, with their ids</summary><p>{", ".join(names)}</p></details>"""
