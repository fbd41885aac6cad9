"""The embedded ClearML-compatible API server and file server.

    cli → server → app          options; ports, files and signals; the application as a value
    dispatch → endpoints        every call passes here, and is found here
    wire, fields, errors, auth  what a request and a reply are, and who may call
    routes/                     one module per service of the protocol
    query, task_fields, states  what the protocol means, without a database
    store/                      all SQL; one writer thread
    waiting, workers            what is kept in memory: parked calls, workers heard of lately
    housekeeping                what happens unasked

It imports nothing of the agent: the two meet over HTTP only.
"""
