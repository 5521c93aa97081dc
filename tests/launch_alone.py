"""The launcher without the rest of the package, which each process of a script would take seconds to import."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

for name in ("eql_d2", "eql_d2.engine"):  # without what their __init__ imports
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [str(ROOT.joinpath(*name.split(".")))]

from eql_d2.engine.launch import launch, leave  # noqa: E402

__all__ = ["launch", "leave"]
