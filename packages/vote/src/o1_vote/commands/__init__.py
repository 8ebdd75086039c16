"""The commands of `o1-vote`, a file each, and the options that several of them share."""
