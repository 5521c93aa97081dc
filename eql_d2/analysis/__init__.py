"""Turning finished runs into tables and pictures; reads the files that a run leaves."""
