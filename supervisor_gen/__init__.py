"""From the host's GPUs and a declared queue topology to supervised, fenced agents.

    inventory (agent.gpu) ─┐
                           ├─▶ plan ─▶ emitters/{systemd,supervisord} ─▶ files ─▶ apply
    topology (HOCON) ──────┘

Everything up to the files is pure: the same inputs give the same bytes.
"""
