"""Language models that recommend."""
