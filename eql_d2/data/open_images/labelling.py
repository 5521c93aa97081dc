"""From the classes of Open Images to those of the annotation file: ancestors, verified labels, other categories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eql_d2.data.open_images.csv_files import Boxes, ImageLabels
from eql_d2.data.open_images.hierarchy import Hierarchy
from eql_d2.errors import UserError
from eql_d2.plain_files import read_yaml


@dataclass(frozen=True)
class ClassMap:
    """Which category each of K classes becomes.

    Attributes:
        category_of: (K,) int32, index among the categories; -1 for classes that are left out.
        categories: C records with ``id`` and ``name``, in ascending order of ids.
        is_borrowed: whether the categories are another dataset's.
    """

    category_of: np.ndarray
    categories: list[dict] = field(default_factory=list)
    is_borrowed: bool = False


def own_categories(names: dict[str, str], hierarchy: Hierarchy) -> ClassMap:
    """The classes themselves, numbered from 1 in the order of the descriptions, with the ids of their ancestors.

    Args:
        names: label → name.
        hierarchy: of the classes.
    """
    number = {label: index for index, label in enumerate(names, start=1)}
    categories = [
        {
            "id": number[label],
            "name": name,
            "freebase_id": label,
            "ancestors": sorted(number[a] for a in hierarchy.ancestors(label) if a in number),
        }
        for label, name in names.items()
    ]
    return ClassMap(np.arange(len(names), dtype=np.int32), categories)


def borrowed_categories(path: Path, names: dict[str, str], ids: Sequence[int], targets: Sequence[str]) -> ClassMap:
    """The categories of another dataset.

    Args:
        path: YAML file, class of Open Images (name, or label where names are not unique) → name of the category.
        names: label → name.
        ids: C category ids of the other dataset, ascending.
        targets: their names.

    Raises:
        UserError: the file is broken, or names a class or category that there is not.
    """
    try:
        mapping = read_yaml(path.read_text(encoding="utf-8"), f"Class file {path}")
    except OSError as error:
        raise UserError(f"Class file {path} cannot be read ({error.strerror}); check the path.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"Class file {path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"Class file {path} has no lines of the form CLASS OF OPEN IMAGES: CATEGORY.")
    place_of_label = {label: place for place, label in enumerate(names)}
    places_of_name: dict[str, list[int]] = {}
    for place, name in enumerate(names.values()):
        places_of_name.setdefault(name, []).append(place)
    index_of = {name: index for index, name in enumerate(targets)}
    category_of = np.full(len(names), -1, np.int32)
    for name, target in mapping.items():
        places = [place_of_label[name]] if name in place_of_label else places_of_name.get(str(name), [])
        if len(places) != 1:
            what = "names no class" if not places else "stands for several classes, so give the label (/m/…)"
            raise UserError(f"Class file {path}: {name!r} {what} of Open Images.")
        if target not in index_of:
            raise UserError(f"Class file {path}: {target!r} (of {name!r}) is no category of the other dataset.")
        category_of[places[0]] = index_of[target]
    categories = [{"id": i, "name": name} for i, name in zip(ids, targets, strict=True)]
    return ClassMap(category_of, categories, is_borrowed=True)


class Relatives:
    """For each of K classes some other ones, as arrays.

    Args:
        of: K lists of class numbers.
    """

    def __init__(self, of: Sequence[Sequence[int]]) -> None:
        self._counts = np.array([len(numbers) for numbers in of], np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._flat = np.array([number for numbers in of for number in numbers], np.int32)

    def expand(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The relatives of M classes.

        Args:
            labels: (M,) class numbers.

        Returns:
            Places in ``labels`` and class numbers of their relatives, both (R,), in the order of ``labels``.
        """
        counts = self._counts[labels]
        places = np.repeat(np.arange(len(labels)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return places, self._flat[self._starts[labels[places]] + np.arange(len(places)) - first]


def relatives(names: dict[str, str], hierarchy: Hierarchy) -> tuple[Relatives, Relatives]:
    """Ancestors and descendants of each class, by the classes' places in the descriptions."""
    place = {label: index for index, label in enumerate(names)}

    def places(of: Callable[[str], set[str]]) -> Relatives:
        return Relatives([sorted(place[other] for other in of(label) if other in place) for label in names])

    return places(hierarchy.ancestors), places(hierarchy.descendants)


def expanded_boxes(boxes: Boxes, ancestors: Relatives) -> Boxes:
    """Each box, and behind it one of each ancestor of its class."""
    places, labels = ancestors.expand(boxes.label)
    order = np.argsort(np.concatenate([np.arange(len(boxes.label)), places]), kind="stable")
    rows = np.concatenate([np.arange(len(boxes.label)), places])[order]
    label = np.concatenate([boxes.label, labels])[order]
    return Boxes(boxes.image[rows], label, boxes.corners[rows], boxes.is_group_of[rows])


@dataclass(frozen=True)
class VerifiedClasses:
    """What people said of images' classes beyond the boxes: (image, category) pairs, sorted.

    A category stands in an image's boxes, in one of these, or people said nothing of it.

    Attributes:
        absent: (A, 2) int64, verified not to be in the image.
        present: (B, 2) int64, verified to be in the image, but without a box of that category.
    """

    absent: np.ndarray
    present: np.ndarray


def verified_classes(
    official: Boxes,
    boxes: Boxes,
    labels: ImageLabels,
    ancestors: Relatives,
    descendants: Relatives,
    class_map: ClassMap,
) -> VerifiedClasses:
    """What the image-level labels say of the categories, by the challenge's rules.

    Who sees a "Man" sees a "Person"; where there is no "Person", there is no "Man": labels that something is there
    hold for the ancestors of the class, labels that it is not for the descendants. Where people contradict each
    other, it is there.

    Args:
        official: boxes of the official file.
        boxes: those that the annotation file will have, which may be expanded.
        labels: image-level labels.
        ancestors: of the classes.
        descendants: of the classes.
        class_map: which category each class becomes. A category is absent if all classes that become it are.
    """
    num_classes, num_categories = len(class_map.category_of), len(class_map.categories)
    yes = labels.is_positive
    seen = np.concatenate(
        [
            _with_relatives(labels.image[yes], labels.label[yes], ancestors, num_classes),
            _with_relatives(official.image, official.label, ancestors, num_classes),
        ]
    )
    unseen = _with_relatives(labels.image[~yes], labels.label[~yes], descendants, num_classes)
    present, _ = _in_categories(_sorted_unique(seen), class_map, num_classes)
    absent, number = _in_categories(unseen, class_map, num_classes)
    classes_of_category = np.bincount(class_map.category_of[class_map.category_of >= 0], minlength=num_categories)
    absent = absent[number == classes_of_category[absent % num_categories]]
    boxed = _sorted_unique(_keys(boxes.image, boxes.label, num_classes))
    boxed, _ = _in_categories(boxed, class_map, num_classes)
    return VerifiedClasses(
        _pairs(np.setdiff1d(absent, present, assume_unique=True), num_categories),
        _pairs(np.setdiff1d(present, boxed, assume_unique=True), num_categories),
    )


def _with_relatives(image: np.ndarray, label: np.ndarray, of: Relatives, num_classes: int) -> np.ndarray:
    """Keys image * K + class of some labels and of their classes' relatives, each once."""
    keys = _sorted_unique(_keys(image, label, num_classes))
    places, others = of.expand((keys % num_classes).astype(np.int32))
    return _sorted_unique(np.concatenate([keys, keys[places] // num_classes * num_classes + others]))


def _sorted_unique(keys: np.ndarray) -> np.ndarray:
    """``np.unique``, which is many times slower on such keys where it hashes (NumPy 2.3 and later)."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _keys(image: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    return image.astype(np.int64) * num_classes + label


def _in_categories(keys: np.ndarray, class_map: ClassMap, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys image * C + category of keys image * K + class, each once, and of how many classes each is made."""
    category = class_map.category_of[keys % num_classes]
    kept = category >= 0
    mapped = keys[kept] // num_classes * len(class_map.categories) + category[kept]
    return np.unique(mapped, return_counts=True)


def _pairs(keys: np.ndarray, num_categories: int) -> np.ndarray:
    return np.stack([keys // num_categories, keys % num_categories], axis=1)
