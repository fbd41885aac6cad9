"""The daemon: one process per agent, which polls, claims, launches and reports. `worker.py` is the spine.

It is started as `python -OO -m agent.worker SETUP_FILE` by `clearml-agent daemon`, which reads the configuration and
then becomes this process, so that nothing of the command line and the configuration parser stays in memory.
"""
