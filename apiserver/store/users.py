"""Users, their credentials, and sessions that were logged out."""

from __future__ import annotations

import hashlib
import secrets
import string
from typing import Any

import sqlalchemy as sa

from ..identity import COMPANY
from .database import Session, Transaction
from .schema import credential, revoked_session, user

_KEY_ALPHABET = string.ascii_uppercase + string.digits


def new_access_key() -> str:
    """30 characters, like those of the real server."""
    return "".join(secrets.choice(_KEY_ALPHABET) for _ in range(30))


def new_secret() -> str:
    """60 url-safe characters of which the first is alphanumeric (a leading dash confuses command lines)."""
    return secrets.choice(_KEY_ALPHABET) + secrets.token_urlsafe(45)[:59]


def hash_secret(secret: str) -> str:
    """What is stored of a secret. It is random and long, so one salted SHA-256 is as strong as a slow hash."""
    salt = secrets.token_hex(8)
    return f"sha256${salt}${_digest(salt, secret)}"


def secret_matches(secret: str, stored: str) -> bool:
    """Whether this is the secret that was stored as a hash."""
    _scheme, salt, digest = stored.split("$")
    return secrets.compare_digest(_digest(salt, secret), digest)


def _digest(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


def user_id_for(name: str, company: str = COMPANY) -> str:
    """The id of a user who is known by a name: stable over reinstalls."""
    return hashlib.md5(f"{company}:{name}".encode(), usedforsecurity=False).hexdigest()


def find_user(tx: Session, user_id: str) -> dict[str, Any] | None:
    """The user's record."""
    row = tx.one(sa.select(user).where(user.c.id == user_id))
    return dict(row) if row else None


def all_users(tx: Session, company: str) -> list[dict[str, Any]]:
    """Everybody, by name."""
    return [dict(row) for row in tx.all(sa.select(user).where(user.c.company == company).order_by(user.c.name))]


def add_user(tx: Transaction, *, name: str, role: str, company: str = COMPANY, **more: str | None) -> str:
    """Create the user of this name, unless there; returns the id."""
    user_id = user_id_for(name, company)
    if find_user(tx, user_id) is None:
        tx.execute(sa.insert(user).values(id=user_id, company=company, name=name, role=role, created=tx.now, **more))
    return user_id


def update_user(tx: Transaction, user_id: str, **changes: Any) -> None:
    """Write fields of the record."""
    tx.execute(sa.update(user).where(user.c.id == user_id).values(**changes))


def add_credential(
    tx: Transaction, user_id: str, *, label: str | None = None, access_key: str = "", secret_key: str = ""
) -> tuple[str, str]:
    """Mint an access key and a secret; the only time the secret is seen."""
    access_key, secret_key = access_key or new_access_key(), secret_key or new_secret()
    values = {"access_key": access_key, "secret_hash": hash_secret(secret_key), "user": user_id, "label": label}
    tx.execute(sa.insert(credential).values(**values, created=tx.now))
    return access_key, secret_key


def find_credential(tx: Session, access_key: str) -> dict[str, Any] | None:
    """The credential joined with its user, or None."""
    row = tx.one(
        sa.select(credential.c.secret_hash, user)
        .join_from(credential, user, credential.c.user == user.c.id)
        .where(credential.c.access_key == access_key)
    )
    return dict(row) if row else None


def credentials_of(tx: Session, user_id: str) -> list[dict[str, Any]]:
    """What may be shown of a user's credentials."""
    columns = (credential.c.access_key, credential.c.label, credential.c.last_used, credential.c.last_used_from)
    rows = tx.all(sa.select(*columns).where(credential.c.user == user_id).order_by(credential.c.created))
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def label_credential(tx: Transaction, user_id: str, access_key: str, label: str | None) -> int:
    """Rename a credential; returns how many there were."""
    mine = sa.and_(credential.c.access_key == access_key, credential.c.user == user_id)
    return tx.execute(sa.update(credential).where(mine).values(label=label)).rowcount


def revoke_credential(tx: Transaction, user_id: str, access_key: str) -> int:
    """Delete a credential; returns how many there were."""
    mine = sa.and_(credential.c.access_key == access_key, credential.c.user == user_id)
    return tx.execute(sa.delete(credential).where(mine)).rowcount


def note_use(tx: Transaction, access_key: str, used_from: str) -> None:
    """Remember when and from where a credential was used."""
    values = {"last_used": tx.now, "last_used_from": used_from[:255]}
    tx.execute(sa.update(credential).where(credential.c.access_key == access_key).values(**values))


def revoke_session(tx: Transaction, session: str, expires: float) -> None:
    """Refuse the tokens of this session until they would have expired anyway."""
    tx.execute(sa.delete(revoked_session).where(revoked_session.c.expires < tx.moment))
    tx.execute(sa.delete(revoked_session).where(revoked_session.c.session == session))
    tx.execute(sa.insert(revoked_session).values(session=session, expires=int(min(expires, 2**53))))


def revoked_sessions(tx: Session) -> set[str]:
    """Sessions that were logged out."""
    return set(tx.execute(sa.select(revoked_session.c.session)).scalars())
