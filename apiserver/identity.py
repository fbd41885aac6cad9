"""Who is calling, and the ids of what exists from the start."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

#: The one company there is; the id is the real server's, because clients and dumps carry it.
COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"
COMPANY_NAME = "clearml"

#: The name that background changes are made in.
SYSTEM_USER = "__apiserver__"

ROLES = frozenset({"system", "root", "admin", "superuser", "user", "annotator", "guest"})


def new_id() -> str:
    """32 lower-case hex characters: clients check the shape."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is calling, from a token or from credentials."""

    user: str
    company: str = COMPANY
    role: str = "user"
    user_name: str = ""
    company_name: str = COMPANY_NAME
    session: str = ""
    expires: float = float("inf")

    @property
    def is_admin(self) -> bool:
        """May act for others."""
        return self.role in {"admin", "system", "root"}


NOBODY = Identity(user="", role="guest")
