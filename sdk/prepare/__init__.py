"""Methods that need data and training: torch -> torch, before a model is exported and compiled."""
