"""The retriever that one has, with thoughts: any embedding model, any thinker, calibrated on judgements."""
