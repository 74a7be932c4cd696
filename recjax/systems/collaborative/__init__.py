"""Recommenders that know who met what, and no order or text."""
