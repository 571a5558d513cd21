"""Lets `python -m raymine` be the command line."""

from raymine.cli import main

main()
