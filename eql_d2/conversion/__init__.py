"""Published weights of other code bases as checkpoints of this project."""

from eql_d2.conversion.convert import Conversion, check_output, convert, save
from eql_d2.conversion.layouts import SOURCES
from eql_d2.conversion.proof import prove

__all__ = ["SOURCES", "Conversion", "check_output", "convert", "prove", "save"]
