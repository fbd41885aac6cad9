"""The gpufleet agent: takes ClearML tasks from queues, sets them up, runs them and watches over them."""

__version__ = "0.1.0"
