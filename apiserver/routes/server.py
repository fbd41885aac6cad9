"""About the server itself."""

from __future__ import annotations

from .. import endpoints
from ..calls import Call
from ..endpoints import NEWEST, Reply, endpoint
from ..fields import Fields
from ..identity import COMPANY
from ..version import BUILD, FEATURES, NAME, SERVER_VERSION


@endpoint("debug.ping", auth=False)
async def ping(call: Call, data: Fields) -> Reply:
    """Alive."""
    return {"msg": "ClearML server"}


@endpoint("server.info")
async def info(call: Call, data: Fields) -> Reply:
    """Versions, and the extensions that clients may use."""
    return {
        "version": SERVER_VERSION,
        "build": BUILD,
        "commit": "",
        "uid": COMPANY,
        "api_version": f"{NEWEST[0]}.{NEWEST[1]}",
        "name": NAME,
        "features": list(FEATURES),
    }


@endpoint("server.config")
async def config(call: Call, data: Fields) -> Reply:
    """Nothing of the configuration is anybody's business."""
    return {}


@endpoint("server.endpoints")
async def list_endpoints(call: Call, data: Fields) -> Reply:
    """What can be called."""
    return {"endpoints": [{"name": name} for name in endpoints.names()]}
