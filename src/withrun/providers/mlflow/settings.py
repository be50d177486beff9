"""How one instance talks to its server: timeouts, retries, credentials, TLS. Never from the environment."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Union

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

__all__ = ["ClientSettings"]

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class ClientSettings(BaseModel):
    """Settings of the HTTP client behind one API instance.

    No environment variable is read, neither MLflow's nor `HTTP_PROXY`, `SSL_CERT_FILE` or `.netrc`: what
    is not set here is not used. To go through a proxy, name it in `proxy`.

    Attributes:
        timeout: seconds to wait for the next byte of an answer; also the time after which a failing
            call is no longer repeated.
        connect_timeout: seconds until a server that can't be connected to counts as unreachable, over
            all addresses of its name and all attempts.
        retries: how often a read or a replay-safe write is repeated after a failure worth it.
        headers: further headers of every request to the server.
        token: bearer token, or a function that returns one. A function is called for the first request,
            and again when the server answers 401; that request is then repeated once.
        username: user name for basic authentication; `http://user:password@host` in the URL does the same.
        password: password that goes with `username`.
        verify: check the server's certificate: against the usual authorities, those in a file or folder
            (PEM) in place of them, or not at all.
        client_cert: PEM file with the certificate (and key, unless `client_key` names it) to present.
        client_key: PEM file with the key of `client_cert`.
        client_key_password: password of that key.
        proxy: URL of the proxy to go through (`http://`, `https://` or `socks5://`), credentials included.
    """

    # `hide_input_in_errors`: a validation error would otherwise print the password that it complains about.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    timeout: float = Field(default=30.0, gt=0)
    connect_timeout: float = Field(default=10.0, gt=0)
    retries: int = Field(default=3, ge=0)
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    token: Union[SecretStr, Callable[[], str], None] = None  # noqa: UP007 - pydantic evaluates it on Python 3.10
    username: Union[str, None] = None  # noqa: UP007
    password: Union[SecretStr, None] = None  # noqa: UP007
    verify: Union[bool, Path] = True  # noqa: UP007
    client_cert: Union[Path, None] = None  # noqa: UP007
    client_key: Union[Path, None] = None  # noqa: UP007
    client_key_password: Union[SecretStr, None] = None  # noqa: UP007
    proxy: Union[SecretStr, None] = None  # noqa: UP007

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an HTTP header")
            if not _is_header_value(value.get_secret_value()):
                raise ValueError(f"the value of header {name!r} holds characters that a header can't carry")
        return headers

    @field_validator("token")
    @classmethod
    def _check_token(
        cls, token: SecretStr | Callable[[], str] | None
    ) -> SecretStr | Callable[[], str] | None:
        if isinstance(token, SecretStr) and not _is_header_value(token.get_secret_value()):
            raise ValueError("the token holds characters that a header can't carry, such as a line break")
        return token

    @model_validator(mode="after")
    def _check_combination(self) -> ClientSettings:
        if self.token is not None and self.username is not None:
            raise ValueError("give either a token or a username and password, not both")
        if self.password is not None and self.username is None:
            raise ValueError("a password needs the username that it belongs to")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key needs client_cert, the certificate that it belongs to")
        return self


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()
