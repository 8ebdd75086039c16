"""Machinery that the sibling packages share. Not public: any release may change it."""
