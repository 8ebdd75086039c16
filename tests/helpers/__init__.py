"""What tests of several packages share. Nothing heavy is imported before it is used."""
