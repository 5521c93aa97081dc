"""Ground truth, the engines that compute metrics from it, and the rules they follow."""
