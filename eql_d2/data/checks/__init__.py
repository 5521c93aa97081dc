"""What can be wrong with the images of a dataset and between its sets; annotation_rules has the rules of one file.

A defect is to be mended before training, a remark is worth knowing.
"""
