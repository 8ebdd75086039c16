"""From rows of token ids to vectors, in memory and on disk."""
