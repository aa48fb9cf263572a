"""Breaks everything that a worker rests on, and then checks the history of every upload.

`python -m tests.faults --help` runs it; docs/faults.md says what is broken how, and what must hold.
"""
