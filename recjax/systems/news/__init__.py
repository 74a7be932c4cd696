"""Recommenders that read the news, and tell the candidates of an impression apart."""
