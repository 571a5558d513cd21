"""What earlier rounds chose: carried into the rows of this one, scored anew, and what became of it."""
