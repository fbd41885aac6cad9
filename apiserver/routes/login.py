"""What a login page asks before there are credentials."""

from __future__ import annotations

from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields


@endpoint("login.supported_modes", auth=False)
async def supported_modes(call: Call, data: Fields) -> Reply:
    """How one may log in."""
    return {
        "basic": {"enabled": False, "guest": {"enabled": False}},
        "sso": {},
        "sso_providers": [],
        "server_errors": {"missed_es_upgrade": False, "es_connection_error": False},
        "authenticated": call.authenticated,
    }


@endpoint("login.logout", auth=False)
async def logout(call: Call, data: Fields) -> Reply:
    """Forget the browser's session."""
    if call.authenticated:
        await call.services.auth.revoke(call.identity)
    call.session_cookie = ""
    return {}
