"""A task seen from outside: claimed, launched, watched, its console shipped, its end reported.

`lifecycle.py` is the spine. The executor, which is the same task seen from inside, is another process; the two meet in
the run directory (`rundir.py`).
"""
