"""Users."""

from __future__ import annotations

from typing import Any

from .. import errors
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..identity import COMPANY_NAME
from ..query import Document
from ..store import users
from ..store.database import Transaction

_SHOWN = ("id", "name", "given_name", "family_name", "created")


def _shown(record: dict[str, Any]) -> Document:
    shown = {name: record[name] for name in _SHOWN if record[name] is not None}
    return {**shown, "company": {"id": record["company"], "name": COMPANY_NAME}}


async def _record(call: Call, user_id: str) -> dict[str, Any]:
    record = await call.read(lambda tx: users.find_user(tx, user_id))
    if record is None:
        raise errors.INVALID_USER_ID(id=user_id)
    return record


@endpoint("users.get_current_user")
async def get_current_user(call: Call, data: Fields) -> Reply:
    """Who the caller is."""
    record = await _record(call, call.user)
    user = {**_shown(record), "role": call.identity.role, "preferences": record["preferences"]}
    return {"user": user, "getting_started": None, "settings": {"max_download_items": 1000}}


@endpoint("users.get_by_id")
async def get_by_id(call: Call, data: Fields) -> Reply:
    """One user."""
    return {"user": _shown(await _record(call, data.ident("user")))}


async def _all(call: Call) -> Reply:
    return {"users": [_shown(record) for record in await call.read(lambda tx: users.all_users(tx, call.company))]}


@endpoint("users.get_all")
async def get_all(call: Call, data: Fields) -> Reply:
    """Everybody."""
    return await _all(call)


@endpoint("users.get_all_ex")
async def get_all_ex(call: Call, data: Fields) -> Reply:
    """Everybody."""
    return await _all(call)


@endpoint("users.get_preferences")
async def get_preferences(call: Call, data: Fields) -> Reply:
    """What a web page keeps for the caller."""
    return {"preferences": (await _record(call, call.user))["preferences"]}


@endpoint("users.set_preferences")
async def set_preferences(call: Call, data: Fields) -> Reply:
    """Keep something for the caller; merged one level deep."""
    preferences = data.mapping("preferences")

    def change(tx: Transaction) -> Document:
        record = users.find_user(tx, call.user)
        merged = {**(record or {}).get("preferences", {}), **preferences}
        users.update_user(tx, call.user, preferences=merged)
        return merged

    return {"updated": 1, "fields": {"preferences": await call.write(change)}}


@endpoint("users.get_vaults")
async def get_vaults(call: Call, data: Fields) -> Reply:
    """Configuration vaults: there are none."""
    return {"vaults": []}
