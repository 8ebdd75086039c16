"""Joint training on transformers' Trainer: arguments, data, objective, steps, checks, what is saved."""
