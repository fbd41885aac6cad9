"""A cache of layers with a builder that costs nothing; run as a program it is the second agent of a test.

`python -m support.layers slow|count CACHE FILE`
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from agent.config import defaults
from agent.executor.cache import Built, Layer, LayerCache
from agent.packages.venv import LayerFiles
from agent.process.stop import StopSignal

FILES = LayerFiles(prefix="/p", scripts=(), programs=(), data=())


class Layers:
    """A cache folder and what was said about it."""

    def __init__(self, folder: Path, stop: StopSignal, **settings: object) -> None:
        self.asked = folder
        self.folder = Path(f"{folder}.layers")
        self.notes: list[str] = []
        self.builds = 0
        limits = replace(defaults({}).agent.venvs_cache, path=str(folder), free_space_threshold_gb=0.0)
        self.cache = LayerCache(replace(limits, **settings), stop=stop, note=self.notes.append)  # type: ignore[arg-type]

    def build(self, folder: str) -> Built:
        self.builds += 1
        package = Path(folder, "lib/package")
        package.mkdir(parents=True)
        (package / "code.py").write_text(f"build = {self.builds}\n")
        return Built(frozen=("package==1.0",), files=FILES)

    def use(self, key: str = "k") -> Layer:
        with self.cache.open(key, self.build) as layer:
            return layer

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}

    def building(self) -> list[str]:
        return sorted(path.name for path in (self.folder / ".building").iterdir())


def main(mode: str, cache: str, file: str) -> None:
    """Build "k": "slow" hangs in the middle after touching `file`, "count" adds a line to it for each build."""
    with StopSignal() as stop:
        layers = Layers(Path(cache), stop)

        def build(folder: str) -> Built:
            built = layers.build(folder)
            with open(file, "a") as log:
                log.write("built\n")
            time.sleep(60 if mode == "slow" else 0.2)
            return built

        with layers.cache.open("k", build) as layer:
            sys.exit(0 if Path(layer.folder, "lib/package/code.py").exists() else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
