"""What the server knows about events apart from where they are stored: pure functions over plain values.

`incoming` judges what clients send, `console` and `points` pack console lines and scalar points into chunks and read
pages and curves out of them, `metrics` does the arithmetic behind a task's `last_metrics`. SQL lives in
`apiserver.store.events`, HTTP in `apiserver.routes.events`.
"""
