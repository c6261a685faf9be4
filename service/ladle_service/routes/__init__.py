"""The addresses of the REST API, one file per part."""

from ladle_service.routes import catalogue, events, health, jobs, nodes

ROUTERS = (jobs.router, events.router, nodes.router, catalogue.router, health.router)

__all__ = ["ROUTERS"]
