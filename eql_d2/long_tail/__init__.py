"""What a long tail is: how often classes occur, rare/common/frequent groups, tail ratio, LVIS's own counts."""

from eql_d2.long_tail.counts import CategoryCounts, read_count_file
from eql_d2.long_tail.groups import LVIS_THRESHOLDS, FrequencyThresholds, quantile_thresholds
from eql_d2.long_tail.lvis import LVIS_COUNT_FILES, LVIS_DATASETS, lvis_train_image_counts
from eql_d2.long_tail.thresholds import lambda_for_tail_ratio, quantile_bin_edges, tail_ratio

__all__ = [
    "LVIS_COUNT_FILES",
    "LVIS_DATASETS",
    "LVIS_THRESHOLDS",
    "CategoryCounts",
    "FrequencyThresholds",
    "lambda_for_tail_ratio",
    "lvis_train_image_counts",
    "quantile_bin_edges",
    "quantile_thresholds",
    "read_count_file",
    "tail_ratio",
]
