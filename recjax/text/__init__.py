"""Text: vocabularies, weights in and out, sentence encoders, item vectors, objectives."""
