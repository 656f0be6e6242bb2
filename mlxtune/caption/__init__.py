"""Captions and questions for a person's own pictures: only new ones are described, nothing is paid for twice.

`run` is the whole command; `work` describes one picture; `retry` decides what is tried again; `store` and `review` are the files.
"""
