"""`ladle webhook-secret`: with what receivers of webhooks check that a request is the service's."""

from __future__ import annotations

from ladle.cli.arguments import Token, Url
from ladle.cli.console import out
from ladle.cli.showing import service_client


def webhook_secret(url: Url = None, token: Token = None) -> None:
    """Print the secret that signs the webhooks of your jobs, for whoever receives them.

    Whoever has it can sign too: keep it as you keep your token.
    """
    with service_client(url, token) as client:
        out.say(client.webhook_secret())
