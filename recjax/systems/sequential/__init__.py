"""Recommenders that read a history in its order."""
