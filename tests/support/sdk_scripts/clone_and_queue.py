"""Clone a task given by its id, edit the clone, queue it, take it back, and wait for statuses."""

import json
import sys
import threading

from clearml import Task

source = Task.get_task(task_id=sys.argv[1])
clone = Task.clone(source_task=source, name="the clone")
clone.update_parameters({"Args/lr": 0.5, "Model/layers": 7})
clone.set_parameter("Args/epochs", 2)
before = clone.get_status()
Task.enqueue(clone, queue_name="default")
clone.reload()
queued = clone.get_status()
Task.dequeue(clone)
clone.reload()
taken_back = clone.get_status()

other = Task.create(project_name="waiting", task_name="waited for", script=__file__, add_task_init_call=False)
other.mark_started()
threading.Timer(1.0, other.mark_completed).start()
other.wait_for_status(status=(Task.TaskStatusEnum.completed,), check_interval_sec=0.5)
print(
    "RESULT",
    json.dumps(
        {
            "clone": clone.id,
            "statuses": [before, queued, taken_back],
            "parent": clone.parent,
            "waited": other.get_status(),
            "other": other.id,
        }
    ),
    flush=True,
)
