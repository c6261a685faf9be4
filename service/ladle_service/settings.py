"""What the operator configures with environment variables that begin with `LADLE_`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ladle_contracts.environment import PREFIX, check_absolute, split_roots
from ladle_contracts.network import is_loopback
from ladle_contracts.redis_address import complete_address
from ladle_contracts.web_addresses import Network, check_web_address, read_networks
from ladle_service.retention import Retention
from ladle_service.webhooks.signing import ADVICE, Secret, read_secret


def read_addresses(value: Any) -> Any:
    """`https://a/x,https://b/y` as two. Raises ValueError, which repeats nothing of what may be a secret."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(check_web_address(part.strip()) for part in parts)


Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The configuration of one service. With a wrong value it does not start, and says which variable is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` or `unix://`, possibly with a password."""
    redis_password_file: Path | None = None
    """A file that holds the password of Redis, and nothing else."""
    redis_ca_file: Path | None = None
    """The authority that signed the certificate of a `rediss://` address, in PEM. By default those of the system."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8337
    uds: Path | None = None
    """Listen on this unix socket instead of on `host` and `port`."""
    roots: Annotated[tuple[Path, ...], NoDecode]
    """Checkpoints and data sets must be in one of these folders, or at an address below one of `far_roots`."""
    far_roots: Annotated[tuple[str, ...], NoDecode] = ()
    """The addresses in `LADLE_ROOTS`, such as `s3://bucket/runs`."""
    results_dir: Path
    """Where the workers write results."""
    tokens_file: Path | None = None
    """What `ladle token` writes. Without it nobody needs a token, and the service listens on this machine only."""
    tls_cert: Path | None = None
    """The certificate, with those between it and the authority, in PEM. With it the service speaks HTTPS only."""
    tls_key: Path | None = None
    """The certificate's private key, in PEM, without a passphrase."""
    audit_log: Path | None = None
    """Where to write who did what. By default that goes into the log."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    keep_jobs_days: Days = 365.0
    """How long Redis keeps jobs that have ended. Their results stay on the disk."""
    keep_events_days: Days = 30.0
    """How long it keeps all events and the log of a job that has ended. The last event is kept with the job."""
    keep_nodes_days: Days = 7.0
    """How long a node that is gone is listed."""
    keep_jobs_most: Annotated[int, Field(ge=0)] = 100_000
    """How many jobs that have ended it keeps; then the oldest ones go. For each of these four, 0 means no limit."""
    client_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """How long a client may keep the service waiting: for the rest of a request, or because it reads no answer."""
    max_connections: Annotated[int, Field(ge=1)] = 8192
    max_streams_per_owner: Annotated[int, Field(ge=1)] = 2000
    max_requests_per_s: Annotated[float, Field(gt=0)] = 100.0
    """Of one owner, on average over 20 seconds."""
    max_queued_jobs_per_owner: Annotated[int, Field(ge=1)] = 2000
    max_nodes_per_job: Annotated[int, Field(ge=1)] | None = None
    """The most nodes that a job may ask for. By default there is no limit."""
    oversized_jobs: Literal["refuse", "wait"] = "refuse"
    """What becomes of a job that needs more than all known nodes: it is refused, or waits until there are more."""
    shutdown_grace_s: Annotated[int, Field(ge=1)] = 5
    """How long open requests may take to end when the service stops."""
    webhooks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_addresses)] = ()
    """Web addresses that are told of the end of every job, besides those that a job names itself."""
    webhook_secret_file: Path | None = None
    """A file with the secret that signs what webhooks send: `whsec_` and base64. Without it there are no webhooks."""
    webhook_private: Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_networks)] = ()
    """Networks such as `10.0.0.0/8` that webhooks may lead to although they are not public."""
    metrics: Literal["admin", "open", "off"] = "admin"
    """Who may read `/metrics`: a token with the scope `admin`, anybody who reaches the service, or nobody."""
    log_format: Literal["text", "json"] = "text"
    """What a line of the log is: text for people, or a JSON object for programs."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def retention(self) -> Retention:
        """How long Redis keeps what is over."""
        return Retention(
            jobs_days=self.keep_jobs_days,
            events_days=self.keep_events_days,
            nodes_days=self.keep_nodes_days,
            most_jobs=self.keep_jobs_most,
        )

    @property
    def webhook_networks(self) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(each, strict=False) for each in self.webhook_private)

    def webhook_secret(self) -> Secret | None:
        """Raises OSError or ValueError if the file cannot be used."""
        return None if self.webhook_secret_file is None else read_secret(self.webhook_secret_file)

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> Self:
        try:
            secret = self.webhook_secret()
        except (OSError, ValueError) as error:
            raise ValueError(f"`LADLE_WEBHOOK_SECRET_FILE` cannot be used: {error}") from None
        if self.webhooks and secret is None:
            raise ValueError(f"`LADLE_WEBHOOK_SECRET_FILE` must be set when `LADLE_WEBHOOKS` is. {ADVICE}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _split_roots(cls, values: Any) -> Any:
        return split_roots(values)

    @model_validator(mode="after")
    def _open_only_to_this_machine(self) -> Self:
        if self.tokens_file is None and self.uds is None and not is_loopback(self.host):
            raise ValueError(
                f"`LADLE_HOST` must be a loopback address when there is no `LADLE_TOKENS_FILE`, but is {self.host!r}. "
                "Everybody in the network could submit jobs. Make a token with `ladle token create`."
            )
        return self

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("`LADLE_TLS_CERT` and `LADLE_TLS_KEY` must be set together, but one of them is not set.")
        if self.tls_cert is not None and self.uds is not None:
            raise ValueError("`LADLE_TLS_CERT` must not be set together with `LADLE_UDS`, but is.")
        return self

    @field_validator("redis_url")
    @classmethod
    def _a_redis(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _complete_redis_url(self) -> Self:
        url = complete_address(self.redis_url.get_secret_value(), self.redis_password_file, self.redis_ca_file)
        object.__setattr__(self, "redis_url", SecretStr(url))
        return self

    @model_validator(mode="after")
    def _whole_paths(self) -> Self:
        check_absolute(self.roots, self.results_dir)
        return self
