"""Where an executor runs: on the host itself, or (for tests and load measurements) nowhere at all."""
