"""The dashboard: HTML pages made here, at the service's own address. See docs/dashboard.md.

Each page is a file with a `router` and a template of its name; `templates.page` renders it.
"""

from ladle_service.pages import catalogue, job, jobs, login, nodes, report, settings, static, submit

ROUTERS = (
    *(jobs.router, job.router, report.router, submit.router, nodes.router, catalogue.router),
    settings.router,
)
"""They need a session, or a service without tokens."""
OPEN_ROUTERS = (login.router, static.router)

__all__ = ["OPEN_ROUTERS", "ROUTERS"]
