# The node agent and the engine: `python -m ladle_worker`. Torch is chosen by build arguments, for CPU or CUDA.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What to install. Only when this list changes are the dependencies installed anew.
FROM ${BASE_IMAGE} AS requirements
WORKDIR /src
COPY pyproject.toml docker/requirements.py ./
# Of pyproject.toml. `vision` brings timm and torchvision; the image with GPUs has it.
ARG EXTRAS="worker text pictures"
# hadolint ignore=SC2086
RUN python requirements.py ${EXTRAS} > requirements.txt

# The dependencies, apart from our code: a change of the code makes a small new layer, and not one with torch.
FROM ${BASE_IMAGE} AS dependencies
# The index that torch alone comes from. Empty: pip's own, whose Linux build is the CUDA one (it runs without a GPU,
# and is large). PyTorch's index for CPU makes an image of a quarter of that size.
ARG TORCH_INDEX_URL=""
# What to install as torch; constraints.txt says the version.
ARG TORCH_SPEC=torch
# Where pip looks, if not at its default: an index of your own, or a folder of wheels. They stay in this stage.
ARG PIP_INDEX_URL=""
ARG PIP_FIND_LINKS=""
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/ladle
WORKDIR /src
COPY constraints.txt ./
# Without its dependencies: they come from the ordinary index below, and only torch is trusted to the other one.
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_INDEX_URL="${TORCH_INDEX_URL:-$PIP_INDEX_URL}" \
    /opt/ladle/bin/pip install --no-deps "${TORCH_SPEC}" -c constraints.txt
COPY --from=requirements /src/requirements.txt ./
# `--use-pep517`: some of these are sources, which the older pip of a base image would build in ways that fail.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/ladle/bin/pip install --use-pep517 -r requirements.txt -c constraints.txt

FROM dependencies AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
COPY worker worker
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
# HOME is the temporary folder: the root file system is read-only when it runs. A job never fetches a model.
ENV PATH=/opt/ladle/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp HF_HUB_OFFLINE=1
# Debian packages besides: `gcc libc6-dev`, with which Triton compiles its driver on the first job of a GPU. Without them
# jobs run too, with slower products. docker-compose.gpu.yml asks for them.
ARG APT_PACKAGES=""
# hadolint ignore=DL3008,SC2086
RUN [ -z "${APT_PACKAGES}" ] || { \
    apt-get update && apt-get install -y --no-install-recommends ${APT_PACKAGES} && rm -rf /var/lib/apt/lists/*; }
# A fixed number, which LADLE_UID may replace: so whoever runs it must be able to write to a new volume at /results.
RUN groupadd --gid 10001 ladle \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ladle \
    && install --directory --owner=ladle --group=ladle --mode=1777 /results \
    && install --directory /data
COPY --from=dependencies /opt/ladle /opt/ladle
# For docker/plugins.Dockerfile.
COPY constraints.txt /opt/ladle/constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
COPY --from=sbom /sbom.cdx.json /opt/ladle/sbom.cdx.json
USER 10001:10001
WORKDIR /tmp
CMD ["python", "-m", "ladle_worker"]
