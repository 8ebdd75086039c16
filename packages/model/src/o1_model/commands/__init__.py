"""The commands of `o1-model`, one file each: `declare` its options, `run` it."""
