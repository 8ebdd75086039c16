"""Vector databases, a file each, and what is the same for all of them."""
