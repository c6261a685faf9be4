# Adds a plug-in (a task of your own) to the worker's image. The build context is the plug-in's folder:
#
#     docker compose build worker
#     docker build -f docker/plugins.Dockerfile -t ladle-worker:mine path/to/plugin
#     LADLE_WORKER_IMAGE=ladle-worker:mine docker compose up --no-build --wait
#
# Only an operator can do this: a job names a task, and never brings code.
ARG WORKER_IMAGE=ladle-worker
# hadolint ignore=DL3006
FROM ${WORKER_IMAGE}
ARG PIP_INDEX_URL=""
ARG PIP_FIND_LINKS=""
USER 0:0
COPY . /tmp/plugin
# Under Ladle's own constraints: a plug-in cannot exchange the torch that Ladle was tested with.
RUN --mount=type=cache,target=/root/.cache/pip \
    HOME=/root PIP_CONSTRAINT=/opt/ladle/constraints.txt /opt/ladle/bin/pip install /tmp/plugin \
    && rm -r /tmp/plugin
USER 10001:10001
