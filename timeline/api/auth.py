"""Who is asking. Sessions and passwords are somebody else's service: here a token is checked, or a gateway believed.

Algorithms are fixed by us and bound to the kind of key, never chosen by the token: a public key is no HMAC secret.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jwt
import orjson
from multidict import CIMultiDictProxy

from timeline.domain.errors import BadRequest
from timeline.domain.ids import ID_MAX, UserId
from timeline.settings import Auth, SettingError, Settings

log = logging.getLogger(__name__)

SECRET_ALGORITHM = "HS256"
KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")
ADMIN = "admin"
_SECRET_BYTES_MIN = 32  # RFC 7518, 3.2: as long as the hash
USER_HEADER = "X-User-Id"


@dataclass(frozen=True, slots=True)
class Caller:
    """An admin may act on any user, not as any user."""

    user_id: UserId
    is_admin: bool = False

    def may_change(self, user_id: int) -> bool:
        return self.is_admin or self.user_id == user_id


class Authenticator(Protocol):
    """One of the two ways. `challenge` is the WWW-Authenticate that it answers with a 401."""

    @property
    def challenge(self) -> str: ...

    def caller(self, headers: CIMultiDictProxy[str]) -> Caller | None:
        """None: nobody says so. Raises BadRequest("bad-credentials") when what is said is not valid."""


class ByHeader:
    """A gateway has checked, and says the id. Whoever reaches this port directly is believed as well."""

    challenge = f'{USER_HEADER} realm="timeline"'

    def caller(self, headers: CIMultiDictProxy[str]) -> Caller | None:
        said = headers.getall(USER_HEADER, [])
        if not said:
            return None
        user_id = parse_id(said[0])
        if len(said) > 1 or user_id is None:
            raise _bad(f"{USER_HEADER} is one user id, a decimal number from 1 to 2^63-1.")
        return Caller(UserId(user_id))


class ByToken:
    """A bearer token: HS256 with the shared secret, RS256, ES256 or EdDSA with a key of the JWKS file."""

    challenge = 'Bearer realm="timeline"'

    def __init__(
        self,
        *,
        secret: str | None,
        keys: KeyFile | None,
        user_claim: str,
        audience: str | None,
        issuer: str | None,
        leeway_seconds: float,
    ) -> None:
        self._secret, self._keys = secret, keys
        self._user_claim, self._audience, self._issuer = user_claim, audience, issuer
        self._leeway_seconds = leeway_seconds

    def caller(self, headers: CIMultiDictProxy[str]) -> Caller | None:
        said = headers.getall("Authorization", [])
        if not said:
            return None
        scheme, _, token = said[0].partition(" ")
        if len(said) > 1 or scheme.lower() != "bearer":
            raise _bad("Authorization must be one Bearer token.")
        claims = self._claims(token.strip())
        subject = claims.get(self._user_claim)
        user_id = parse_id(subject) if isinstance(subject, str) else None
        if user_id is None:
            raise _bad(f"The claim {self._user_claim} is not a user id: a decimal string from 1 to 2^63-1.")
        scope = claims.get("scope")
        return Caller(UserId(user_id), is_admin=isinstance(scope, str) and ADMIN in scope.split())

    def _claims(self, token: str) -> Mapping[str, object]:
        try:
            key, algorithm = self._key(jwt.get_unverified_header(token))
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_seconds,
                options={"require": ["exp"], "verify_aud": self._audience is not None, "verify_sub": False},
            )
        except jwt.ExpiredSignatureError:
            raise _bad("The token has expired.") from None
        except jwt.PyJWTError as error:
            log.info("token_refused", extra={"reason": str(error)})
            raise _bad("The token is not valid here.") from None

    def _key(self, header: Mapping[str, object]) -> tuple[str | jwt.PyJWK, str]:
        algorithm = header.get("alg")
        if algorithm == SECRET_ALGORITHM and self._secret is not None:
            return self._secret, SECRET_ALGORITHM
        if algorithm in KEY_ALGORITHMS and self._keys is not None:
            kid = header.get("kid")
            key = self._keys.find(kid if isinstance(kid, str) else None)
            if key is not None and key.algorithm_name == algorithm:
                return key, key.algorithm_name
        raise jwt.InvalidKeyError("no key of ours is for a token with this alg and kid")


class KeyFile:
    """A JWKS file, read again when it has changed. A change that cannot be read leaves the keys as they were."""

    def __init__(self, path: Path) -> None:
        """Raises SettingError when there is no usable key in it."""
        self._path = path
        self._seen = self._stamp()
        try:
            self._keys = _read_keys(path)
        except (OSError, ValueError) as error:
            raise SettingError(
                "TIMELINE_JWKS_FILE", f"no keys can be read from {path}: {error}", "Name a JWKS file (RFC 7517)."
            ) from error

    def find(self, kid: str | None) -> jwt.PyJWK | None:
        """The key with this id; a token without one is for the only key."""
        self._refresh()
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = _read_keys(self._path)
        except (OSError, ValueError) as error:
            log.error("jwks_not_read", extra={"path": str(self._path), "reason": str(error)})
        else:
            log.info("jwks_read", extra={"path": str(self._path), "keys": sorted(self._keys)})

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)  # 1 µs; follows the link that Kubernetes swaps
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _read_keys(path: Path) -> dict[str, jwt.PyJWK]:
    """By kid. Keys of other kinds (symmetric ones above all), uses and algorithms are none of ours. Raises OSError, ValueError."""
    listed = orjson.loads(path.read_bytes())
    entries = listed.get("keys") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is not a JWKS: there is no list `keys`")
    keys = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use") == "enc":
            continue
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
        if key.algorithm_name in KEY_ALGORITHMS:
            keys[str(entry.get("kid", ""))] = key
    if not keys:
        raise ValueError(f"no key in it is for {', '.join(KEY_ALGORITHMS)}")
    return keys


def make_authenticator(settings: Settings) -> Authenticator:
    """As the settings choose. Raises SettingError."""
    if settings.auth is Auth.header:
        return ByHeader()
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
    if not secret and settings.jwks_file is None:
        raise SettingError(
            "TIMELINE_JWT_SECRET",
            "TIMELINE_AUTH is jwt, and there is neither a secret nor a TIMELINE_JWKS_FILE to check tokens with",
            "Set one of them, or TIMELINE_AUTH=header behind a gateway that checks.",
        )
    if secret:
        _check_length(secret)
    return ByToken(
        secret=secret or None,
        keys=KeyFile(settings.jwks_file) if settings.jwks_file else None,
        user_claim=settings.jwt_user_claim,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway_seconds=settings.limits.clock_skew_ms / 1000,
    )


def make_token(settings: Settings, user_id: UserId, *, scope: str | None, expires_in_seconds: int) -> str:
    """A token of the configured secret. Raises SettingError when there is none."""
    if settings.jwt_secret is None or not settings.jwt_secret.get_secret_value():
        raise SettingError(
            "TIMELINE_JWT_SECRET", "there is no secret to sign a token with", "Set the one that the api is run with."
        )
    claims: dict[str, object] = {
        settings.jwt_user_claim: str(user_id),
        "iat": int(time.time()),
        "exp": int(time.time()) + expires_in_seconds,
    }
    optional = {"scope": scope, "aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    claims |= {name: value for name, value in optional.items() if value is not None}
    secret = settings.jwt_secret.get_secret_value()
    _check_length(secret)
    return jwt.encode(claims, secret, SECRET_ALGORITHM)


def parse_id(text: str) -> int | None:
    """The id of its only spelling: decimal, no sign, no leading zero, 1 to 2^63-1."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and text[0] != "0"):
        return None
    value = int(text)
    return value if value <= ID_MAX else None


def _check_length(secret: str) -> None:
    """Short secrets are said once, at the start, and not by the library with every token."""
    if len(secret.encode()) < _SECRET_BYTES_MIN:
        log.warning("jwt_secret_short", extra={"remedy": f"make it at least {_SECRET_BYTES_MIN} random bytes"})
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)


def _bad(detail: str) -> BadRequest:
    return BadRequest("bad-credentials", detail)
