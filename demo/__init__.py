"""A whole fleet on one machine: the embedded server, agents under supervisord, a git repository and three tasks.

`python -m demo run` does the main job once and ends everything; `python -m demo up` stays until Ctrl-C. Everything
that is written goes below one state directory, everything that is started carries a mark and is ended again.
"""
