"""An OpenAI-compatible server of one checkpoint, whose clients share batches."""
