"""An annotation file, read once: formats, values made right, rules and findings, packing, cache, paths."""
