"""What the operator configures with environment variables that begin with `LADLE_`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ladle_contracts.environment import PREFIX, check_absolute, split_paths
from ladle_contracts.network import is_loopback
from ladle_contracts.redis_address import with_password


class Settings(BaseSettings):
    """The configuration of one service. With a wrong value it does not start, and says which variable is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` or `unix://`, possibly with a password."""
    redis_password_file: Path | None = None
    """A file that holds the password of Redis, and nothing else."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8337
    uds: Path | None = None
    """Listen on this unix socket instead of on `host` and `port`."""
    roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split_paths), Field(min_length=1)]
    """Checkpoints and data sets must be in one of these folders."""
    results_dir: Path
    """Where the workers write results."""
    tokens_file: Path | None = None
    """Lines `name:sha256hex`. Without it nobody needs a token, and the service listens on this machine only."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    shutdown_grace_s: Annotated[int, Field(ge=1)] = 5
    """How long open requests may take to end when the service stops."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _open_only_to_this_machine(self) -> Self:
        if self.tokens_file is None and self.uds is None and not is_loopback(self.host):
            raise ValueError(
                f"`LADLE_HOST` must be a loopback address when there is no `LADLE_TOKENS_FILE`, but is {self.host!r}. "
                "Everybody in the network could submit jobs. Make a token with `python -m ladle_service hash-token`."
            )
        return self

    @field_validator("redis_url")
    @classmethod
    def _a_redis(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _password_from_file(self) -> Self:
        try:
            url = with_password(self.redis_url.get_secret_value(), self.redis_password_file)
        except ValueError as error:
            raise ValueError(f"`LADLE_REDIS_PASSWORD_FILE` {error}.") from None
        object.__setattr__(self, "redis_url", SecretStr(url))
        return self

    @model_validator(mode="after")
    def _whole_paths(self) -> Self:
        check_absolute(self.roots, self.results_dir)
        return self
