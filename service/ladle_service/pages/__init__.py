"""The dashboard: HTML pages made here, at the service's own address. See docs/dashboard.md.

Each page is a file with a `router` and a template of its name; `templates.page` renders it.
"""

from ladle_service.pages import job, jobs, login, static

ROUTERS = (jobs.router, job.router)
"""They need a session, or a service without tokens."""
OPEN_ROUTERS = (login.router, static.router)

__all__ = ["OPEN_ROUTERS", "ROUTERS"]
