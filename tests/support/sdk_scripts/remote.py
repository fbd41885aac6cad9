"""A script that sends itself to a queue and ends here."""

from clearml import Task

task = Task.init(project_name="remote", task_name="sent away", reuse_last_task_id=False)
print("RESULT", '{"task": "%s"}' % task.id, flush=True)  # noqa: UP031
task.execute_remotely(queue_name="default", exit_process=True)
print("NOT HERE", flush=True)
