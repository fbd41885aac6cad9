"""Logging in, and credentials."""

from __future__ import annotations

from .. import auth, errors
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..identity import ROLES, Identity
from ..query import Document
from ..store import users
from ..store.database import Transaction

_ADMINS = frozenset({"admin", "system", "root"})


@endpoint("auth.login")
async def login(call: Call, data: Fields) -> Reply:
    """A token for whoever sent these credentials (or an older token)."""
    seconds = None
    if "expiration_sec" in data:
        seconds = data.integer("expiration_sec", least=0, most=auth.LONGEST_TOKEN_SECONDS) or None
    token = call.services.auth.issue(call.identity, seconds=seconds)
    call.session_cookie = token
    return {"token": token}


@endpoint("auth.logout")
async def logout(call: Call, data: Fields) -> Reply:
    """Refuse this session's tokens from now on."""
    await call.services.auth.revoke(call.identity)
    call.session_cookie = ""
    return {}


@endpoint("auth.fixed_users_mode", auth=False)
async def fixed_users_mode(call: Call, data: Fields) -> Reply:
    """Whether people log in with a name and password: they do not."""
    return {"enabled": False, "guest": {"enabled": False}}


@endpoint("auth.validate_token")
async def validate_token(call: Call, data: Fields) -> Reply:
    """Whether a token is good, and whose it is."""
    try:
        identity = call.services.auth.identity_of(data.text("token"))
    except errors.ApiError as error:
        if error.code != 401:
            raise
        return {"valid": False, "msg": error.text}
    return {"valid": True, "user": identity.user, "company": identity.company}


@endpoint("auth.get_token_for_user", roles=_ADMINS)
async def get_token_for_user(call: Call, data: Fields) -> Reply:
    """A token for somebody else."""
    user_id, seconds = data.ident("user"), None
    if "expiration_sec" in data:
        seconds = data.integer("expiration_sec", least=1, most=auth.LONGEST_TOKEN_SECONDS)
    record = await call.read(lambda tx: users.find_user(tx, user_id))
    if record is None:
        raise errors.INVALID_USER_ID(id=user_id)
    identity = Identity(user=user_id, company=record["company"], role=record["role"], user_name=record["name"])
    return {"token": call.services.auth.issue(identity, seconds=seconds)}


@endpoint("auth.create_credentials")
async def create_credentials(call: Call, data: Fields) -> Reply:
    """New credentials of the caller; the only time the secret is shown."""
    label = data.text_or_none("label")
    access_key, secret_key = await call.write(lambda tx: users.add_credential(tx, call.user, label=label))
    return {"credentials": {"access_key": access_key, "secret_key": secret_key, "label": label}}


@endpoint("auth.get_credentials")
async def get_credentials(call: Call, data: Fields) -> Reply:
    """The caller's credentials without their secrets."""
    return {
        "credentials": await call.read(lambda tx: users.credentials_of(tx, call.user)),
        "additional_credentials": [],
    }


@endpoint("auth.edit_credentials")
async def edit_credentials(call: Call, data: Fields) -> Reply:
    """Rename credentials."""
    access_key, label = data.ident("access_key"), data.text_or_none("label")
    updated = await call.write(lambda tx: users.label_credential(tx, call.user, access_key, label))
    if not updated:
        raise errors.ACCESS_KEY_NOT_FOUND(access_key=access_key)
    return {"updated": updated}


@endpoint("auth.revoke_credentials")
async def revoke_credentials(call: Call, data: Fields) -> Reply:
    """Delete credentials; tokens that were made with them live on until they expire."""
    access_key = data.ident("access_key")
    revoked = await call.write(lambda tx: users.revoke_credential(tx, call.user, access_key))
    if not revoked:
        raise errors.ACCESS_KEY_NOT_FOUND(access_key=access_key)
    call.services.auth.forget_credentials()
    return {"revoked": revoked}


@endpoint("auth.create_user", roles=_ADMINS)
async def create_user(call: Call, data: Fields) -> Reply:
    """A new user; credentials are made by that user, or with a token for that user."""
    name, role = data.ident("name"), data.one_of("role", ROLES - {"system", "root"}, "user")
    more = {field: data.text_or_none(field) for field in ("given_name", "family_name", "email")}

    def change(tx: Transaction) -> Document:
        if users.find_user(tx, users.user_id_for(name, call.company)) is not None:
            raise errors.NOT_UNIQUE("a user of this name exists", name=name)
        return {"id": users.add_user(tx, name=name, role=role, company=call.company, **more)}

    return await call.write(change)


@endpoint("auth.edit_user", roles=_ADMINS)
async def edit_user(call: Call, data: Fields) -> Reply:
    """Change a user's role."""
    user_id, role = data.ident("user"), data.one_of("role", ROLES - {"system", "root"})

    def change(tx: Transaction) -> None:
        if users.find_user(tx, user_id) is None:
            raise errors.INVALID_USER_ID(id=user_id)
        users.update_user(tx, user_id, role=role)

    await call.write(change)
    call.services.auth.forget_credentials()
    return {"updated": 1, "fields": {"role": role}}
