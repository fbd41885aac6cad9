"""A small training as a user would write it: arguments, a connected dictionary, curves, texts, plots, artifacts."""

import argparse
import json
import sys

from clearml import Task

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=3)

task = Task.init(project_name="Größe/日本語 проект", task_name="train ± 訓練", tags=["first"], reuse_last_task_id=False)
args = parser.parse_args()
options = task.connect({"layers": 2, "activation": "relu", "nested": {"deep": 1.5}}, name="Model")
task.set_comment("a task of the tests")

logger = task.get_logger()
print("printed line äöü")
for epoch in range(args.epochs):
    logger.report_scalar("loss", "train", value=args.lr / (epoch + 1), iteration=epoch)
    logger.report_scalar("loss", "validation", value=args.lr, iteration=epoch)
logger.report_text("reported text")
logger.report_single_value("accuracy", 0.875)
logger.report_line_plot(
    "curve", [{"name": "a", "data": [[0, 1], [1, 2]]}], iteration=0, xaxis="x", yaxis="y", mode="lines"
)
logger.report_plotly("free", "form", {"data": [{"type": "bar", "x": [1, 2], "y": [3, 4]}], "layout": {}}, iteration=1)
logger.report_scatter2d("points", "cloud", scatter=[[0, 0], [1, 1]], iteration=0, xaxis="x", yaxis="y")

task.upload_artifact("résultat 結果", {"answer": 42, "text": "ünïcödé"}, wait_on_upload=True)
with open("data file ß.txt", "w", encoding="utf-8") as file:
    file.write("content " * 1000)
task.upload_artifact("file", "data file ß.txt", wait_on_upload=True)

print("RESULT", json.dumps({"task": task.id, "lr": args.lr, "epochs": args.epochs, "model": dict(options)}), flush=True)
task.close()
sys.exit(0)
