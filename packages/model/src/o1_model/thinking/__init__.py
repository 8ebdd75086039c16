"""Thinking before embedding: decode thoughts, decide which queries get some, aggregate their vectors."""
