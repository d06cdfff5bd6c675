"""Records -> table -> CSV. Imports no torch."""
