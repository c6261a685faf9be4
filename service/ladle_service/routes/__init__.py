"""The REST API's addresses. Each file is one part of it."""

from ladle_service.routes import catalogue, events, health, jobs, nodes

ROUTERS = (jobs.router, events.router, nodes.router, catalogue.router, health.router)

__all__ = ["ROUTERS"]
