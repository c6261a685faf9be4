"""What a request has besides its body: path, query and headers, with their rules in one place."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from ladle_contracts import JobState
from ladle_contracts.api import IDEMPOTENCY_HEADER, LAST_EVENT_HEADER
from ladle_service.cursors import Cursor
from ladle_service.problems import not_found
from ladle_service.settings import Settings
from ladle_service.store import JobStore

JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""No character that has a meaning in a Redis key."""
NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
"""As the worker's settings allow."""
EVENT_ID = r"^[0-9]{1,19}-[0-9]{1,19}$"
LARGEST = 2**63 - 1
"""Redis counts to 2^64 - 1, but has nothing after that one."""


async def _job_id(job_id: Annotated[str, Path(description="The job's id, from the answer of `POST /v1/jobs`.")]) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise not_found("such job")
    return job_id


async def _node_id(node_id: Annotated[str, Path(description="The node's id, as `GET /v1/nodes` shows it.")]) -> str:
    if not NODE_ID.fullmatch(node_id):
        raise not_found("such node")
    return node_id


def _in_range(event_id: str) -> str:
    if any(int(part) > LARGEST for part in event_id.split("-")):
        raise ValueError("must be two numbers below 2^63")
    return event_id


def _a_cursor(text: str) -> str:
    Cursor.parse(text)
    return text


EventId = Annotated[str, Field(pattern=EVENT_ID), AfterValidator(_in_range)]
JobId = Annotated[str, Depends(_job_id)]
NodeId = Annotated[str, Depends(_node_id)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_HEADER,
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="The same body with the same key, sent again within 24 hours, returns the same job.",
    ),
]
LastEventId = Annotated[
    EventId | None, Header(alias=LAST_EVENT_HEADER, description="The id of the last event that was seen.")
]


class Query(BaseModel):
    """An unknown parameter is an error, because a misspelt filter would otherwise show everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ListQuery(Query):
    """Which jobs."""

    state: JobState | None = None
    label: Annotated[list[Annotated[str, Field(pattern=r"^[^=]+=", max_length=401)]], Field(max_length=20)] = Field(
        default=[], description="`name=value`. If it is given several times, all must match."
    )
    cursor: Annotated[str, Field(max_length=200), AfterValidator(_a_cursor)] | None = Field(
        default=None, description="The `next_cursor` of the previous page."
    )
    limit: Annotated[int, Field(ge=1, le=500)] = 50

    @field_validator("label")
    @classmethod
    def _each_name_once(cls, pairs: list[str]) -> list[str]:
        if len({pair.partition("=")[0] for pair in pairs}) != len(pairs):
            raise ValueError("must name each label only once")
        return pairs

    @property
    def labels(self) -> dict[str, str]:
        """The labels by name."""
        return dict(pair.split("=", 1) for pair in self.label)


class EventsQuery(Query):
    """Which events."""

    after: EventId | None = Field(default=None, description="Only events after the one with this id.")
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(default=200, description="For JSON. A stream has no limit.")


class LogsQuery(Query):
    """How much of the log."""

    tail: Annotated[int, Field(ge=1, le=2000)] = 100


class CordonQuery(Query):
    """Why."""

    reason: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Why, in words. It is shown with the node."
    )


class DrainQuery(CordonQuery):
    """Why, and how soon."""

    now: bool = Field(default=False, description="Hand back the job that the node runs. Another node goes on with it.")


class NoQuery(Query):
    """For routes that take no parameters."""


# FastAPI would run a plain function in a thread, which takes longer than the function.
async def _store(request: Request) -> JobStore:
    store: JobStore = request.app.state.store
    return store


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


StoreDependency = Annotated[JobStore, Depends(_store)]
SettingsDependency = Annotated[Settings, Depends(_settings)]
