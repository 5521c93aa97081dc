"""Published weights of other code bases as checkpoints of this project."""

from eql_d2.conversion.convert import Conversion, convert, save
from eql_d2.conversion.layouts import SOURCES
from eql_d2.conversion.proof import prove

__all__ = ["SOURCES", "Conversion", "convert", "prove", "save"]
