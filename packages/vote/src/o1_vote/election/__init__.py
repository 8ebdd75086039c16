"""An election: join what belongs together, let members vote, count, and show how it went."""
