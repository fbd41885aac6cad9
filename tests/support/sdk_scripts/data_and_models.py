"""Models, a data set with a child, images, and a task taken out, put back and deleted."""

import json
from pathlib import Path

from clearml import Dataset, InputModel, OutputModel, StorageManager, Task

WEIGHTS = b"weights" * 100
PICTURE = b"not really a picture"

task = Task.init(project_name="mödels", task_name="everything else", reuse_last_task_id=False, output_uri=True)
Path("weights.bin").write_bytes(WEIGHTS)
Path("picture.png").write_bytes(PICTURE)
logger = task.get_logger()
logger.report_image("image", "one", iteration=1, local_path="picture.png")
logger.report_table("table", "one", iteration=0, table_plot=[["a", "b"], [1, 2]])
logger.report_histogram("histogram", "one", values=[1, 2, 3], iteration=1)
model = OutputModel(task=task, name="the model", framework="custom")
model.update_weights("weights.bin")
model.set_metadata("key", "value", "str")
model.publish()
task.close()

Path("data").mkdir()
Path("data/ä.txt").write_text("first")
first = Dataset.create(dataset_name="dätä", dataset_project="mödels")
first.add_files("data")
first.upload(show_progress=False)
first.finalize()
Path("data/b.txt").write_text("second")
second = Dataset.create(dataset_name="dätä", dataset_project="mödels", parent_datasets=[first.id])
second.add_files("data")
second.upload(show_progress=False)
second.finalize()
copy = Path(Dataset.get(dataset_name="dätä", dataset_project="mödels").get_local_copy())

known = Task.get_task(task_id=task.id)
images = [sample["url"] for sample in known.get_debug_samples("image", "one")]
result = {
    "picture": Path(StorageManager.get_local_copy(images[0])).read_bytes() == PICTURE,
    "weights": Path(InputModel(model_id=model.id).get_weights()).read_bytes() == WEIGHTS,
    "images": images,
    "plots": sorted(plot["metric"] for plot in known.get_reported_plots()),
    "datasets": sorted(path.name for path in copy.iterdir()),
    "versions": len(Dataset.list_datasets(dataset_project="mödels")),
}
imported = Task.import_task(known.export_task())
result["imported"] = imported.name
result["deleted"] = bool(imported.delete()) and bool(known.delete())
print("RESULT", json.dumps(result), flush=True)
