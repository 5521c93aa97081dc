"""The class hierarchy of Open Images: which classes are kinds of which."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson

from eql_d2.errors import UserError


class Hierarchy:
    """Ancestors and descendants of each class.

    A class may have several parents. The root stands for no class and is left out, and so are parts ("Human eye" is a
    part of "Person", not a kind of it), as in the TensorFlow Object Detection API's expansion of labels.

    Args:
        tree: the content of ``challenge-2019-label500-hierarchy.json``: nodes with ``LabelName`` and ``Subcategory``.
    """

    def __init__(self, tree: dict[str, Any] | None = None) -> None:
        self._ancestors: dict[str, set[str]] = defaultdict(set)
        self._descendants: dict[str, set[str]] = defaultdict(set)
        for node in (tree or {}).get("Subcategory", []):
            self._add(node, ())

    def _add(self, node: dict[str, Any], above: tuple[str, ...]) -> None:
        label = node["LabelName"]
        self._ancestors[label].update(above)
        for ancestor in above:
            self._descendants[ancestor].add(label)
        for child in node.get("Subcategory", []):
            self._add(child, (*above, label))

    def ancestors(self, label: str) -> set[str]:
        """Labels of all classes that a class is a kind of, without itself."""
        return self._ancestors.get(label, set()) - {label}

    def descendants(self, label: str) -> set[str]:
        """Labels of all kinds of a class, without itself."""
        return self._descendants.get(label, set()) - {label}


def read_hierarchy(path: str | Path) -> Hierarchy:
    """Read a hierarchy file.

    Raises:
        UserError: the file is missing or of another form.
    """
    try:
        return Hierarchy(orjson.loads(Path(path).read_bytes()))
    except OSError as error:
        raise UserError(f"Hierarchy file {path} cannot be read ({error.strerror}); check the path.") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Hierarchy file {path} is not of the form of challenge-2019-label500-hierarchy.json "
            f"({type(error).__name__} {error}); download it again."
        ) from None
