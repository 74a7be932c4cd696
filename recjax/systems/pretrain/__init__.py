"""Recommenders whose user vectors are learned by more than the next item."""
