"""Recommenders that write the next item's identifier."""
