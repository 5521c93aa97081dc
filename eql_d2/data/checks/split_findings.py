"""What is wrong between the set to train on and the one to validate on."""

from collections.abc import Mapping, Sequence

from eql_d2.data.annotations.cache import PackedAnnotations
from eql_d2.data.annotations.findings import MOST_CASES, Case, Finding
from eql_d2.data.checks.image_reading import ImageFacts
from eql_d2.long_tail import CategoryCounts

_KIND = "image in both sets"
_CONSEQUENCE = "a model is then validated on what it was trained on, and its results are too good"


def overlap_of_content(
    train_paths: Sequence[str],
    train_facts: Sequence[ImageFacts],
    val_paths: Sequence[str],
    val_facts: Sequence[ImageFacts],
) -> Finding | None:
    """The defect of images that both sets have: the same files byte by byte, whatever they are called.

    Args:
        train_paths: N paths below the set's image folder.
        train_facts: N results of reading them.
        val_paths: M paths below the set's image folder.
        val_facts: M results of reading them.

    Returns:
        The finding counts images of the validation set.
    """
    digests = zip(train_paths, train_facts, strict=True)
    trained = {fact.digest: path for path, fact in digests if fact.digest is not None}
    pairs = [
        (path, trained[fact.digest]) for path, fact in zip(val_paths, val_facts, strict=True) if fact.digest in trained
    ]
    if not pairs:
        return None
    sentence = f"val image {pairs[0][0]} is the same file as train image {pairs[0][1]}; {_CONSEQUENCE}"
    shown = tuple(Case(path=path) for path, _ in pairs[:MOST_CASES])
    return Finding("defect", _KIND, sentence, len(pairs), shown)


def overlap_of_names(
    train: PackedAnnotations, train_paths: Sequence[str], val: PackedAnnotations, val_paths: Sequence[str]
) -> Finding | None:
    """The same without looking at the images: same id, path and size. Any of them alone proves nothing.

    Args:
        train: annotations of the set to train on.
        train_paths: N paths of its images.
        val: annotations of the set to validate on.
        val_paths: M paths of its images.
    """

    def identities(annotations: PackedAnnotations, paths: Sequence[str]) -> list[tuple]:
        columns = annotations.image_ids.tolist(), paths, map(tuple, annotations.sizes.tolist())
        return list(zip(*columns, strict=True))

    trained = set(identities(train, train_paths))
    common = [identity for identity in identities(val, val_paths) if identity in trained]
    if not common:
        return None
    image_id, path, _ = common[0]
    sentence = f"image {path} (id {image_id}) is in the train set and in the val set; {_CONSEQUENCE}"
    return Finding("defect", _KIND, sentence, len(common))


def different_classes(train: CategoryCounts, val: CategoryCounts) -> Finding | None:
    """The defect of sets with other classes, or the same in another order of ids.

    Args:
        train: classes of the set to train on.
        val: classes of the set to validate on.
    """
    ids = [{category_id: place for place, category_id in enumerate(c.category_ids)} for c in (train, val)]
    difference = first_difference(train.names, ids[0], val.names, ids[1])
    if difference is None:
        return None
    number, in_train, in_val = difference
    wrong = sum(first != second for first, second in zip(train.names, val.names, strict=False))
    wrong += abs(train.num_classes - val.num_classes)
    sentence = (
        f"in ascending order of ids, class {number} is {in_train} in the train set and {in_val} in the val set; give "
        "both files the same categories, also those without annotations, under the same ids"
    )
    return Finding("defect", "different classes", sentence, wrong)


def first_difference(
    names: Sequence[str], ids: Mapping[int, int], other_names: Sequence[str], other_ids: Mapping[int, int]
) -> tuple[int, str, str] | None:
    """The first class, counted from 1, in which two lists differ, and what each of them has there.

    Args:
        names: class names of the first, in the order of their ids.
        ids: category id → place in ``names``; may be empty.
        other_names: of the second.
        other_ids: of the second.
    """
    if list(names) == list(other_names):
        return None
    pairs = zip(names, other_names, strict=False)
    number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(names), len(other_names)))

    def describe(of_names: Sequence[str], of_ids: Mapping[int, int]) -> str:
        if number >= len(of_names):
            return "missing"
        known = next((f" (id {i})" for i, place in of_ids.items() if place == number), "")
        return f"{of_names[number]!r}{known}"

    return number + 1, describe(names, ids), describe(other_names, other_ids)


def classes_without_training(train: CategoryCounts, val: CategoryCounts) -> Finding | None:
    """The remark of classes that are validated but never trained.

    Args:
        train: counts of the set to train on.
        val: counts of the set to validate on, of the same classes.
    """
    columns = zip(train.names, train.instance_counts, val.instance_counts, strict=True)
    untrained = [(name, in_val) for name, in_train, in_val in columns if in_val and not in_train]
    if not untrained:
        return None
    name, instances = untrained[0]
    sentence = f"class {name!r} has {instances} instances in the val set and none in the train set; its AP will be 0"
    return Finding("remark", "class only in the val set", sentence, len(untrained))
