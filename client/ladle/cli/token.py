"""`ladle token`: makes, lists and revokes the tokens of a service, in its tokens file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ladle._errors import ConfigurationError, LadleError
from ladle.cli.arguments import AsJson
from ladle.cli.console import SafeGroup, err, out, to_json
from ladle.cli.job_flags import WrongUsage
from ladle.cli.tokens_file import add_token, read_tokens, remove_tokens
from ladle_contracts import keys
from ladle_contracts.tokens import NAME, NAME_RULE, Scope, StoredToken, hash_token, make_token
from ladle_report.numbers import ago

FILE_VARIABLE = "LADLE_TOKENS_FILE"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_LAST_USES = """
import json, sys, redis
store = redis.Redis.from_url(sys.stdin.read(), socket_timeout=3, decode_responses=True)
print(json.dumps(store.hgetall(sys.argv[1])))
"""

app = typer.Typer(
    cls=SafeGroup,
    no_args_is_help=True,
    help="Make, list and revoke the tokens of a service. It notices within a second, without a restart.",
)

TokensFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The file that the service reads. [env var: LADLE_TOKENS_FILE]"),
]


def _scope(given: str) -> Scope:
    try:
        return Scope(given)
    except ValueError as error:
        raise typer.BadParameter(f"must be one of {', '.join(Scope)}, but is {given!r}.") from error


def _expiry(given: str) -> datetime:
    """`90d` as the moment in 90 days."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", given)
    if found is None:
        raise typer.BadParameter(f"must be a number of hours, days or weeks, as in 12h, 90d or 4w, but is {given!r}.")
    return _now() + int(found[1]) * _UNITS[found[2]]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Who it is for. Jobs that it submits belong to this name.")
    ],
    scope: Annotated[
        Scope,
        typer.Option(
            metavar="SCOPE",
            parser=_scope,
            help="What it allows: `read` sees the jobs of its name, `submit` also submits, cancels and deletes them, "
            "`admin` does all that with everybody's jobs, and says which nodes take jobs.",
        ),
    ] = Scope.SUBMIT,
    expires: Annotated[
        datetime | None,
        typer.Option(metavar="TIME", parser=_expiry, help="How long it is valid: 12h, 90d or 4w. [default: no expiry]"),
    ] = None,
    tokens_file: TokensFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. It is shown only now, because the file keeps only its hash.

    A name can have several tokens. To replace one, make the new one first and then revoke the old one by its id.
    """
    if not NAME.fullmatch(name):
        raise WrongUsage(f"`NAME` {NAME_RULE}, but is {name!r}.")
    token = make_token()
    stored = StoredToken(name=name, digest=hash_token(token), scope=scope, created=_now(), expires=expires)
    add_token(_path(tokens_file), stored)
    if as_json:
        typer.echo(to_json({**_as_json(stored), "token": token}, indent=2))
        return
    until = f", valid until {_moment(expires)}" if expires else ""
    err.say(f"Token {stored.id} of {name}, scope {scope}{until}. It is shown only now:")
    out.say(token)


@app.command("list")
def list_tokens(tokens_file: TokensFile = None, as_json: AsJson = False) -> None:
    """List the tokens: whose they are, what they allow, and when they were last used.

    The last use is in the service's Redis. It is shown if LADLE_REDIS_URL is set to that Redis.
    """
    tokens = read_tokens(_path(tokens_file))
    uses = _last_uses()
    if as_json:
        typer.echo(to_json([_as_json(token, uses) for token in tokens], indent=2))
    else:
        out.print(_table(tokens, uses))


@app.command()
def revoke(
    which: Annotated[
        str, typer.Argument(metavar="NAME|ID", help="A name, for all its tokens, or the id of one token.")
    ],
    tokens_file: TokensFile = None,
) -> None:
    """Revoke a token. Requests with it are refused within a second. Its jobs continue."""
    path = _path(tokens_file)

    def chosen(tokens: list[StoredToken]) -> list[StoredToken]:
        return [token for token in tokens if token.name == which] or [token for token in tokens if token.id == which]

    removed = remove_tokens(path, chosen)
    if not removed:
        raise LadleError(f"`NAME|ID` must be a name or an id that `ladle token list` shows, but is {which!r}.")
    for token in removed:
        out.say(f"Token {token.id} of {token.name} is revoked.")
    if not read_tokens(path):
        err.print("No token is left, so nobody can use the service, and it will not start again.", style="yellow")


def _path(given: Path | None) -> Path:
    named = given or os.environ.get(FILE_VARIABLE)
    if not named:
        raise ConfigurationError("No tokens file is known. Pass `--tokens-file` or set LADLE_TOKENS_FILE.")
    return Path(named)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _last_uses() -> dict[str, datetime]:
    """Token id -> its last use. Empty where Redis cannot be asked."""
    from ladle.cli.stack import configured_redis

    url = configured_redis()
    if url is None:
        return {}
    done = subprocess.run(
        [sys.executable, "-c", _LAST_USES, keys.TOKENS_USED], input=url, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        err.print("Redis does not answer, so the last uses are not shown.", style="dim")
        return {}
    found: dict[str, str] = json.loads(done.stdout)
    return {token: datetime.fromtimestamp(int(seconds), UTC) for token, seconds in found.items()}


def _as_json(token: StoredToken, uses: Mapping[str, datetime] | None = None) -> dict[str, Any]:
    used = (uses or {}).get(token.id)
    times = {"created": token.created, "expires": token.expires, "last_used": used}
    told = {name: time.isoformat() if time else None for name, time in times.items()}
    return {"name": token.name, "id": token.id, "scope": str(token.scope), **told}


def _table(tokens: Sequence[StoredToken], uses: Mapping[str, datetime]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("name", "id", "scope", "created", "expires", "last used"):
        table.add_column(name, no_wrap=True)
    for token in tokens:
        used = uses.get(token.id)
        table.add_row(
            token.name,
            token.id,
            str(token.scope),
            ago(token.created) if token.created else "-",
            _expires(token),
            ago(used) if used else "-",
        )
    return table


def _expires(token: StoredToken) -> Text:
    if token.expires is None:
        return Text("never")
    if token.has_expired(datetime.now(UTC)):
        return Text(f"expired {ago(token.expires)}", "red")
    return Text(_moment(token.expires))


def _moment(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")
