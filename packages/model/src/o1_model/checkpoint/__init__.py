"""Checkpoints: loading, saving for this and other runtimes, adapters, certificates, model cards."""
