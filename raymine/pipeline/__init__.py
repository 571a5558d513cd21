"""One round as a list of steps: `run.py` gives their order, a file per stretch of the way says what each needs."""
