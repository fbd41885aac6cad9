"""What a user waits for and what an idle agent costs: our agent and `clearml-agent`, in turns, on one server."""
