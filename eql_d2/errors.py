"""The one exception type for mistakes that a user can mend."""

import importlib
import math
import numbers
import operator
from types import ModuleType
from typing import Any


class UserError(Exception):
    """A mistake in the input, told in one sentence that names what is wrong and the way out.

    The tools print the sentence alone, without a traceback. An error raised inside a DataLoader worker
    arrives with the worker's traceback as its text; only the sentence is kept.

    Args:
        message: the sentence.
    """

    def __init__(self, message: str) -> None:
        sentence = str(message).rsplit(f"{type(self).__name__}: ", 1)[-1]
        super().__init__(" ".join(line.strip() for line in sentence.splitlines()).strip())


class ToldByAnother(UserError):
    """A mistake that another process of the run tells, so that it is read once."""


def check_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    """Make sure that a value is a finite number in a range.

    Args:
        name: by which the user knows it.
        value: anything.
        least, above, below: bounds of the range; None is open.

    Raises:
        UserError: it is not.
    """
    bounds = [("of at least", least, operator.ge), ("above", above, operator.gt), ("below", below, operator.lt)]
    given = [(word, bound, compare) for word, bound, compare in bounds if bound is not None]
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        fits = False
    else:
        fits = all(compare(float(value), bound) for _, bound, compare in given)
    if not fits:
        wanted = " and ".join(f"{word} {bound:g}" for word, bound, _ in given)
        raise UserError(f"{name} is {value!r}; it must be a number{f' {wanted}' if wanted else ''}.")


def check_whole_number(name: str, value: Any, least: int) -> None:
    """Make sure that a value is a whole number of at least ``least``.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import what only some users need.

    Args:
        module: name of the module.
        extra: the extra of this package that brings it.
        purpose: what it is needed for; the sentence begins with it.

    Raises:
        UserError: it is not installed; the sentence has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise missing_extra(module, extra, purpose) from None


def missing_extra(module: str, extra: str, purpose: str) -> UserError:
    """The error of :func:`import_extra`."""
    return UserError(f"{purpose} needs {module.replace('_', '-')}; install it: pip install 'eql_d2[{extra}]'")
