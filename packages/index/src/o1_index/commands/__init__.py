"""The commands of `o1-index`, one file each: `declare` its options, `run` it."""
