"""A demonstration on real text that every machine has: built, trained and mined in minutes."""

from raymine.demo.build import Size, prepare

__all__ = ["Size", "prepare"]
