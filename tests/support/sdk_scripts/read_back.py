"""What one reads of another's task, given by its id: reports, artifacts, parameters, searches."""

import json
import sys

from clearml import Task

task = Task.get_task(task_id=sys.argv[1])
by_name = Task.get_task(project_name=task.get_project_name(), task_name=task.name)
found = Task.get_tasks(project_name=task.get_project_name(), task_filter={"status": ["completed"]}, tags=["first"])
histogram = task.get_reported_scalars()
result = {
    "status": task.get_status(),
    "same_by_name": by_name.id == task.id,
    "found": [other.id for other in found],
    "project": task.get_project_name(),
    "parameters": task.get_parameters(),
    "scalars": histogram,
    "last": task.get_last_scalar_metrics(),
    "iteration": task.get_last_iteration(),
    "single": task.get_reported_single_values(),
    "console": task.get_reported_console_output(number_of_reports=50),
    "plots": [[plot["metric"], plot["variant"], json.loads(plot["plot_str"])] for plot in task.get_reported_plots()],
    "artifact": task.artifacts["résultat 結果"].get(),
    "artifact_hash": task.artifacts["file"].hash,
    "artifact_size": task.artifacts["file"].size,
    "file": open(task.artifacts["file"].get_local_copy(), encoding="utf-8").read(),  # noqa: SIM115
}
print("RESULT", json.dumps(result), flush=True)
