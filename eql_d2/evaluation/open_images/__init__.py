"""Evaluation by the rules of the Open Images Challenge 2019."""
