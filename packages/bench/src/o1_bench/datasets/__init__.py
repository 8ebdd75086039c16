"""Collections: one loader or builder each. BEIR folders and the standard library for now."""
