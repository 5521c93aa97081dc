"""A folder of pictures in, results and pictures out."""
