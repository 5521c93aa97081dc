"""Detections as files: encoding, parts of several processes, readers, ensembles."""
