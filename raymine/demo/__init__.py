"""A demonstration on real text that every machine has, trained and mined in minutes."""
