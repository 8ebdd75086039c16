"""Running systems on collections: thinking, embedding and searching, timed and kept stage by stage."""
