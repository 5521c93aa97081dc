"""Boxes, masks and names on pictures, and sheets of pictures."""
