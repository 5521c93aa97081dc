"""Open Images: its official CSV files, made into annotation files of the form that the whole project reads."""

from eql_d2.data.open_images.converted import converted_file, ensure_converted
from eql_d2.data.open_images.counting import count_open_images
from eql_d2.data.open_images.source import CHALLENGE_2019, OpenImagesSource, challenge_2019_source, source_of_entry

__all__ = [
    "CHALLENGE_2019",
    "OpenImagesSource",
    "challenge_2019_source",
    "converted_file",
    "count_open_images",
    "ensure_converted",
    "source_of_entry",
]
