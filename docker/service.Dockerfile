# The REST API and the scheduler: `python -m ladle_service`. It has no torch, and opens no checkpoint.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What to install. Only when this list changes are the dependencies installed anew.
FROM ${BASE_IMAGE} AS requirements
WORKDIR /src
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py service > requirements.txt

# The dependencies, apart from our code: a change of the code makes a small new layer.
FROM ${BASE_IMAGE} AS dependencies
# Where pip looks, if not at its default: an index of your own, or a folder of wheels. They stay in this stage.
ARG PIP_INDEX_URL=""
ARG PIP_FIND_LINKS=""
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/ladle
WORKDIR /src
COPY constraints.txt ./
COPY --from=requirements /src/requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/ladle/bin/pip install -r requirements.txt -c constraints.txt

FROM dependencies AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
COPY worker worker
# Every package is in the one wheel; without the worker's dependencies the engine is a few unused files.
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_CONSTRAINT=/src/constraints.txt /opt/ladle/bin/pip wheel --no-deps --wheel-dir /wheels .

# What the image consists of, as a CycloneDX document. The tool that writes it stays in this stage.
FROM dependencies AS sbom
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/ladle/bin/pip install --no-index --no-deps /wheels/*.whl
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/sbom \
    && /opt/sbom/bin/pip install cyclonedx-bom -c constraints.txt \
    && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.cdx.json /opt/ladle/bin/python

FROM ${BASE_IMAGE}
ENV PATH=/opt/ladle/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
# A fixed number, which LADLE_UID may replace: so whoever runs it must be able to write to a new volume at /results.
RUN groupadd --gid 10001 ladle \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ladle \
    && install --directory --owner=ladle --group=ladle --mode=1777 /results \
    && install --directory /data
COPY --from=dependencies /opt/ladle /opt/ladle
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
COPY --from=sbom /sbom.cdx.json /opt/ladle/sbom.cdx.json
USER 10001:10001
WORKDIR /tmp
CMD ["python", "-m", "ladle_service"]
