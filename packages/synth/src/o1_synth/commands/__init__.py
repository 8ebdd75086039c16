"""The commands of `o1-synth`, one file each: `declare` its options, `run` it."""
