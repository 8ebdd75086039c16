"""The commands of `o1-records`, one file each: `declare` its options, `run` it."""
