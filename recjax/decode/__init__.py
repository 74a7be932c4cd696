"""From a model's next-token scores to items and text: tries, beam search, exact scores."""
