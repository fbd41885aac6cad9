"""The ClearML REST API as the agent uses it: one transport, one client, one file of pure calls per resource."""
