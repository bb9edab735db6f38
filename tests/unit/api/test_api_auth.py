"""Who is asking: which tokens are believed, and which are not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from multidict import CIMultiDict, CIMultiDictProxy

from timeline.api.auth import ByHeader, ByToken, KeyFile, make_authenticator, make_token, parse_id
from timeline.domain.errors import BadRequest
from timeline.domain.ids import UserId
from timeline.settings import SettingError, Settings

SECRET = "a secret of more than thirty-two bytes"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS = {"r": ("RS256", RSA), "e": ("ES256", EC), "d": ("EdDSA", ED)}


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def bearer(token: str) -> CIMultiDictProxy[str]:
    return headers(("Authorization", f"Bearer {token}"))


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changes: Any) -> str:
    claims = {"sub": "42", "exp": int(time.time()) + 60} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)


def public_jwk(name: str) -> dict[str, Any]:
    algorithm, private = KEYS[name]
    implementation = jwt.get_algorithm_by_name(algorithm)
    return json.loads(implementation.to_jwk(private.public_key())) | {"kid": name, "use": "sig"}


def write_jwks(path: Path, *keys: dict[str, Any]) -> Path:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    os.replace(new, path)
    return path


def by_token(secret: str | None = SECRET, keys: KeyFile | None = None, **changes: Any) -> ByToken:
    options: dict[str, Any] = {"user_claim": "sub", "audience": None, "issuer": None, "leeway_seconds": 5}
    return ByToken(secret=secret, keys=keys, **(options | changes))


def refused(authenticator: ByToken | ByHeader, said: CIMultiDictProxy[str]) -> str:
    with pytest.raises(BadRequest) as caught:
        authenticator.caller(said)
    assert caught.value.kind == "bad-credentials"
    return caught.value.detail


def test_a_good_token_names_its_user() -> None:
    caller = by_token().caller(bearer(signed()))
    assert caller is not None
    assert (caller.user_id, caller.is_admin) == (42, False)


def test_nobody_asks_without_a_token() -> None:
    assert by_token().caller(headers(("X-User-Id", "42"))) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": int(time.time()) - 60},
        {"nbf": int(time.time()) + 86_400},  # of the moment of collecting: a long run comes to it much later
        {"sub": None},
        {"sub": 42},
        {"sub": "0"},
        {"sub": "-1"},
        {"sub": "042"},
        {"sub": "alice"},
        {"sub": str(2**63)},
        {"sub": "٤٢"},
    ],
    ids=str,
)
def test_a_token_without_end_or_user_is_refused(claims: dict[str, Any]) -> None:
    refused(by_token(), bearer(signed(**claims)))


def test_the_largest_user_id_is_one() -> None:
    caller = by_token().caller(bearer(signed(sub=str(2**63 - 1))))
    assert caller is not None
    assert caller.user_id == 2**63 - 1


def test_a_token_of_another_secret_is_refused() -> None:
    refused(by_token(), bearer(signed("another secret of more than thirty-two")))


def test_an_unsigned_token_is_refused() -> None:
    refused(by_token(), bearer(jwt.encode({"sub": "42", "exp": int(time.time()) + 60}, None, "none")))


def test_another_hmac_than_the_fixed_one_is_refused() -> None:
    refused(by_token(), bearer(signed(algorithm="HS384", key=SECRET * 2)))


@pytest.mark.parametrize("said", ["Basic YTpi", "Bearer", "Bearer ", "Bearer a.b.c", "Bearer é", "x"])
def test_what_is_no_bearer_token_is_refused(said: str) -> None:
    refused(by_token(), headers(("Authorization", said)))


def test_two_authorizations_are_refused() -> None:
    token = f"Bearer {signed()}"
    refused(by_token(), headers(("Authorization", token), ("Authorization", token)))


def test_the_refusal_does_not_repeat_the_token() -> None:
    assert "eyJ" not in refused(by_token(), bearer(signed("another secret of more than thirty-two")))


@pytest.mark.parametrize(
    ("scope", "is_admin"), [("admin", True), ("read admin", True), ("administrator", False), (["admin"], False)]
)
def test_the_scope_admin_is_a_word_of_its_own(scope: object, is_admin: bool) -> None:
    caller = by_token().caller(bearer(signed(scope=scope)))
    assert caller is not None
    assert (caller.is_admin, caller.may_change(7), caller.may_change(42)) == (is_admin, is_admin, True)


def test_audience_and_issuer_are_checked_when_set_and_only_then() -> None:
    strict = by_token(audience="timeline", issuer="https://id.example")
    assert strict.caller(bearer(signed(aud="timeline", iss="https://id.example"))) is not None
    for wrong in ({}, {"aud": "other", "iss": "https://id.example"}, {"aud": "timeline", "iss": "other"}):
        refused(strict, bearer(signed(**wrong)))
    assert by_token().caller(bearer(signed(aud="anything", iss="anyone"))) is not None


def test_the_user_may_stand_in_another_claim() -> None:
    caller = by_token(user_claim="uid").caller(bearer(signed(sub="someone", uid="9")))
    assert caller is not None
    assert caller.user_id == 9


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_the_file_are_found_by_kid(name: str, tmp_path: Path) -> None:
    keys = KeyFile(write_jwks(tmp_path / "jwks.json", *map(public_jwk, KEYS)))
    algorithm, private = KEYS[name]
    assert by_token(None, keys).caller(bearer(signed(private, algorithm, name))) is not None
    other = next(key for key in KEYS if key != name)
    refused(by_token(None, keys), bearer(signed(private, algorithm, other)))
    refused(by_token(None, keys), bearer(signed(private, algorithm, "unknown")))
    refused(by_token(None, keys), bearer(signed(private, algorithm)))


def test_a_public_key_is_no_shared_secret(tmp_path: Path) -> None:
    """The old confusion: an HMAC made with the text of the public key."""
    keys = KeyFile(write_jwks(tmp_path / "jwks.json", public_jwk("r")))
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "JWT", "kid": "r"}
    part = [
        jwt.utils.base64url_encode(json.dumps(x).encode())
        for x in (header, {"sub": "42", "exp": int(time.time()) + 60})
    ]
    signature = jwt.get_algorithm_by_name("HS256").sign(b".".join(part), pem)
    token = b".".join([*part, jwt.utils.base64url_encode(signature)]).decode()
    refused(by_token(None, keys), bearer(token))
    refused(by_token(SECRET, keys), bearer(token))


def test_a_symmetric_key_in_the_file_is_not_used(tmp_path: Path) -> None:
    oct_key = {"kty": "oct", "k": jwt.utils.base64url_encode(SECRET.encode()).decode(), "kid": "o", "alg": "HS256"}
    keys = KeyFile(write_jwks(tmp_path / "jwks.json", oct_key, public_jwk("e")))
    refused(by_token(None, keys), bearer(signed(SECRET, "HS256", "o")))


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "jwks.json", public_jwk("e"))
    authenticator = by_token(None, KeyFile(path))
    new = bearer(signed(ED, "EdDSA", "d"))
    refused(authenticator, new)
    write_jwks(path, public_jwk("d"))
    assert authenticator.caller(new) is not None
    refused(authenticator, bearer(signed(EC, "ES256", "e")))
    path.write_text("{")
    assert authenticator.caller(new) is not None
    path.unlink()
    assert authenticator.caller(new) is not None


@pytest.mark.parametrize("content", [None, "{", "[]", '{"keys":[]}', '{"keys":[{"kty":"oct","k":"eA"}]}'])
def test_a_file_without_a_usable_key_does_not_start(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match="TIMELINE_JWKS_FILE"):
        KeyFile(path)


def test_tokens_without_anything_to_check_them_with_do_not_start() -> None:
    with pytest.raises(SettingError, match=r"TIMELINE_JWT_SECRET.*TIMELINE_JWKS_FILE"):
        make_authenticator(Settings())


def test_a_token_of_ours_is_believed_by_us() -> None:
    settings = Settings(jwt_secret=SECRET, jwt_audience="timeline", jwt_issuer="us", jwt_user_claim="uid")
    token = make_token(settings, UserId(5), scope="admin", expires_in_seconds=60)
    caller = make_authenticator(settings).caller(bearer(token))
    assert caller is not None
    assert (caller.user_id, caller.is_admin) == (5, True)


def test_no_token_is_made_without_a_secret() -> None:
    with pytest.raises(SettingError, match="TIMELINE_JWT_SECRET"):
        make_token(Settings(), UserId(5), scope=None, expires_in_seconds=60)


def test_a_gateway_is_believed_when_asked_to() -> None:
    caller = make_authenticator(Settings(auth="header")).caller(headers(("x-user-id", "42")))
    assert caller is not None
    assert (caller.user_id, caller.is_admin) == (42, False)
    assert ByHeader().caller(bearer(signed())) is None


@pytest.mark.parametrize("said", ["", "0", "-1", "+1", " 1", "1.0", "042", "alice", str(2**63), "9" * 5000, "٤٢"])
def test_a_header_that_is_no_user_id_is_refused(said: str) -> None:
    refused(ByHeader(), headers(("X-User-Id", said)))


def test_two_user_headers_are_refused() -> None:
    refused(ByHeader(), headers(("X-User-Id", "1"), ("X-User-Id", "2")))


def test_an_id_has_one_spelling() -> None:
    assert [parse_id(text) for text in ("1", str(2**63 - 1))] == [1, 2**63 - 1]
    assert [parse_id(text) for text in ("", "0", "01", "1 ", "1_0", "²", str(2**63), "1e3")] == [None] * 8
