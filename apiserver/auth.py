"""Credentials and tokens.

Three ways lead to an identity: a Bearer token (what clients use), Basic credentials on any call, and the token in a
cookie (browsers). Checked tokens and credentials are remembered, so that a call costs a dictionary lookup: a token
until it expires or its session is logged out, credentials for a minute. Tokens are JWTs that clients decode *without*
verifying, to learn the API version; the secret they are signed with is kept in a file of mode 0600 and survives
restarts.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

import jwt

from . import clock, errors
from .config import ServerConfig
from .endpoints import NEWEST
from .identity import Identity, new_id
from .store import users
from .store.database import Database
from .version import BUILD, SERVER_VERSION

COOKIE = "clearml_token_basic"
ALGORITHM = "HS256"
CREDENTIALS_REMEMBERED_SECONDS = 60.0
MOST_REMEMBERED = 20_000
LONGEST_TOKEN_SECONDS = 31_536_000


def load_secret(path: Path) -> str:
    """The signing secret, made at the first start."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        secret = secrets.token_urlsafe(48)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        return secret


class Authenticator:
    """Turns request headers into identities, and identities into tokens."""

    def __init__(self, db: Database, config: ServerConfig, *, now: clock.Clock = clock.system_clock) -> None:
        self._db = db
        self._config = config
        self._now = now
        self._secret = ""
        self._tokens: dict[str, Identity] = {}
        self._credentials: dict[str, tuple[Identity, float]] = {}
        self._revoked: set[str] = set()

    async def open(self, secret: str) -> None:
        """Begin to answer; the database must be open."""
        self._secret = secret
        self._revoked = await self._db.read(users.revoked_sessions)

    async def identify(self, headers: Mapping[str, str]) -> Identity:
        """Who sent these headers (names in lower case); 401 when nobody we know."""
        authorization = headers.get("authorization")
        if authorization is None:
            return self.identity_of(_token_in_cookie(headers))
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return self.identity_of(value.strip())
            case "basic":
                return await self._check_credentials(value.strip(), headers.get("x-clearml-worker", ""))
        raise errors.BAD_AUTH_TYPE(type=scheme)

    def identity_of(self, token: str) -> Identity:
        """The identity in a token of ours that is still good."""
        identity = self._tokens.get(token) or self._verify(token)
        if identity.expires <= self._now():
            self._tokens.pop(token, None)
            raise errors.INVALID_TOKEN("Signature has expired")
        if identity.session in self._revoked:
            raise errors.INVALID_TOKEN("token was revoked")
        return identity

    def issue(self, identity: Identity, *, seconds: int | None = None) -> str:
        """A token for this identity; carries what clients read to adapt to the server."""
        now = int(self._now())
        claims: dict[str, Any] = {
            "identity": {
                "user": identity.user,
                "company": identity.company,
                "role": identity.role,
                "user_name": identity.user_name,
                "company_name": identity.company_name,
            },
            "iat": now,
            "exp": now + (self._config.token_seconds if seconds is None else seconds),
            "session_id": new_id(),
            "env": "",
            "auth_type": "Bearer",
            "api_version": f"{NEWEST[0]}.{NEWEST[1]}",
            "server_version": SERVER_VERSION,
            "server_build": BUILD,
            "feature_set": self._config.feature_set,
        }
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    async def revoke(self, identity: Identity) -> None:
        """Refuse every token of this session from now on."""
        if identity.session:
            await self._db.write(lambda tx: users.revoke_session(tx, identity.session, identity.expires))
            self._revoked.add(identity.session)

    def forget_credentials(self) -> None:
        """Check credentials afresh, because some were revoked or changed."""
        self._credentials.clear()

    async def acting(self, identity: Identity, headers: Mapping[str, str]) -> Identity:
        """The identity after `X-ClearML-Impersonate-As` and `X-ClearML-Act-As`."""
        impersonate, act = headers.get("x-clearml-impersonate-as"), headers.get("x-clearml-act-as")
        if impersonate and act:
            raise errors.BAD_IMPERSONATION("only one of impersonate-as and act-as may be given")
        other = impersonate or act
        if not other or other == identity.user:
            return identity
        if not identity.is_admin:
            raise errors.IMPERSONATION_NOT_ALLOWED(role=identity.role)
        record = await self._db.read(lambda tx: users.find_user(tx, other))
        if record is None:
            raise errors.BAD_IMPERSONATION("unknown user", user=other)
        return _identity_for(record, role=record["role"] if impersonate else identity.role)

    def _verify(self, token: str) -> Identity:
        try:
            claims = jwt.decode(token, self._secret, algorithms=[ALGORITHM], options={"require": ["exp"]})
            known = claims["identity"]
            identity = Identity(
                user=str(known["user"]),
                company=str(known["company"]),
                role=str(known["role"]),
                user_name=str(known.get("user_name", "")),
                company_name=str(known.get("company_name", "")),
                session=str(claims.get("session_id", "")),
                expires=float(claims["exp"]),
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
            raise errors.INVALID_TOKEN(str(error)) from None
        if len(self._tokens) >= MOST_REMEMBERED:
            self._tokens.clear()
        self._tokens[token] = identity
        return identity

    async def _check_credentials(self, encoded: str, used_from: str) -> Identity:
        remembered = self._credentials.get(encoded)
        if remembered is not None and remembered[1] > self._now():
            return remembered[0]
        access_key, secret = _decoded(encoded)
        record = await self._db.read(lambda tx: users.find_credential(tx, access_key))
        if record is None or not users.secret_matches(secret, record["secret_hash"]):
            raise errors.WRONG_CREDENTIALS(access_key=access_key)
        identity = _identity_for(record, role=record["role"])
        if len(self._credentials) >= MOST_REMEMBERED:
            self._credentials.clear()
        self._credentials[encoded] = (identity, self._now() + CREDENTIALS_REMEMBERED_SECONDS)
        await self._db.write(lambda tx: users.note_use(tx, access_key, used_from))
        return identity


def _identity_for(record: Mapping[str, Any], *, role: str) -> Identity:
    return Identity(user=record["id"], company=record["company"], role=role, user_name=record["name"])


def _decoded(encoded: str) -> tuple[str, str]:
    try:
        access_key, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise errors.MALFORMED_CREDENTIALS() from None
    if not colon:
        raise errors.MALFORMED_CREDENTIALS()
    return access_key, secret


def _token_in_cookie(headers: Mapping[str, str]) -> str:
    """The token of a browser; not of a request that another site made the browser send."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        morsel = None
    if morsel is None or not morsel.value or headers.get("sec-fetch-site") == "cross-site":
        raise errors.NO_CREDENTIALS()
    return str(morsel.value)
