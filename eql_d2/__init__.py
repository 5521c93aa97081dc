"""Long-tailed object detection and instance segmentation on Detectron2.

Importing it makes its names known to Detectron2's registries and catalogs, and changes nothing else. Where Detectron2
is not installed, :mod:`eql_d2.losses` and :mod:`eql_d2.long_tail` work all the same.
"""

import importlib.util

from eql_d2.known_warnings import without_known_warnings
from eql_d2.package_files import VERSION as __version__

__all__ = ["__version__"]

if importlib.util.find_spec("detectron2") is not None:
    with without_known_warnings():  # of what is imported here for the first time
        import eql_d2.classification.classifier
        import eql_d2.model_zoo
        import eql_d2.modeling  # noqa: F401
        from eql_d2.config import add_eql_d2_config, get_eql_d2_config

    __all__ += ["add_eql_d2_config", "get_eql_d2_config"]
