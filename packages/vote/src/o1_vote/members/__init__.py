"""The members of a committee: what is asked of one (`protocol`), and a file for each kind."""
