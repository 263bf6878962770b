"""Protocols of papers, so that our figures can stand beside theirs: one YAML file each.

A file says which files are wanted, how they are divided, what is measured, how Shortlist is
configured and what others have published. `protocol.py` reads it, `preparing.py` turns the files
into a workdir, `exams.py` asks what the protocol asks, `marking.py` puts the questions to the
trained system, `measures.py` counts.
"""
