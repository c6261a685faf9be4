"""The addresses of the REST API, one file per part. All but `health` need a token."""

from ladle_service.routes import catalogue, events, inspect, jobs, nodes, webhooks

ROUTERS = (jobs.router, events.router, nodes.router, catalogue.router, inspect.router, webhooks.router)

__all__ = ["ROUTERS"]
