# The images of Quiver, a stage for each: api (which also migrates), worker, embedder, proxy, lambda.
#   docker build --target api --tag quiver-api .      `make images` builds and tries all of them; see docs/deployment.md
# The versions of all packages are those of constraints.txt. A registry of your own: --secret id=pip.conf,src=pip.conf

# To build on one image for good, name its digest: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM $PYTHON_IMAGE AS base
ENV PATH=/opt/quiver/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv

# What builds stays behind here. Each part has a stage that brings its packages, which change seldom; Quiver itself is a
# layer of its own on top of them, of a megabyte.
FROM base AS build
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_CACHE_DIR=/var/cache/pip PYTHONDONTWRITEBYTECODE=
RUN python -m venv --without-pip /opt/quiver
WORKDIR /src
COPY constraints.txt pyproject.toml LICENSE ./
RUN touch README.md # the real one changes more often than the packages do

FROM build AS quiver
COPY README.md litellm_config.yaml ./
COPY prisma/migrations prisma/migrations
COPY embedder embedder
COPY api api
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/quiver/bin/python install --quiet --no-deps .

FROM build AS api-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/quiver/bin/python install --quiet '.[api,s3,otel]'

FROM build AS lambda-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/quiver/bin/python install --quiet '.[lambda,ingestion]' awslambdaric

FROM build AS proxy-packages
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/quiver/bin/python install --quiet '.[proxy,otel]'

# torch first and alone, from TORCH_INDEX_URL if that is given: on the index of CPU builds it is a tenth of the size.
FROM build AS embedder-packages
ARG TORCH_INDEX_URL
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/quiver/bin/python install --quiet ${TORCH_INDEX_URL:+--index-url $TORCH_INDEX_URL} torch
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/var/cache/pip \
    pip --python /opt/quiver/bin/python install --quiet '.[embedder,otel]'

# The bundled model, exported for the engine that gives the same on every processor: `auto` would choose another one on
# the machine where the image runs, and so has nothing to find here.
FROM embedder-packages AS model
COPY --from=quiver /opt/quiver /opt/quiver
ENV EMBEDDER_ENGINE=onnx EMBEDDER_CACHE_DIR=/var/cache/quiver/models HF_HUB_OFFLINE=1
RUN python -c 'from pathlib import Path; from embedder.engines import ModelSpec, load; from embedder.settings import Settings; \
    settings = Settings(); load(ModelSpec(settings.model, engine=settings.engine), cache=settings.cache_dir)' \
    && chmod --recursive a+rX $EMBEDDER_CACHE_DIR

# What every image stands on: a user without a name in any other system, and nothing to install or compile with.
FROM base AS runtime
RUN pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && groupadd --gid 10001 quiver && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp quiver \
    && install --directory --owner 10001 --group 10001 /var/lib/quiver /var/lib/quiver/files
COPY infra/healthcheck.py /usr/local/lib/quiver/healthcheck.py
LABEL org.opencontainers.image.title="Quiver" \
      org.opencontainers.image.description="OpenAI's /v1/vector_stores API on your own PostgreSQL with pgvector" \
      org.opencontainers.image.licenses="MIT"
USER 10001:10001

FROM runtime AS embedder
COPY --from=embedder-packages /opt/quiver /opt/quiver
COPY --from=model /var/cache/quiver/models /var/cache/quiver/models
COPY --from=quiver /opt/quiver /opt/quiver
ENV EMBEDDER_HOST=0.0.0.0 EMBEDDER_PORT=8001 EMBEDDER_ENGINE=onnx EMBEDDER_CACHE_DIR=/var/cache/quiver/models \
    HF_HUB_OFFLINE=1
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-IS", "/usr/local/lib/quiver/healthcheck.py", "EMBEDDER_PORT", "/health"]
CMD ["python", "-m", "embedder"]

FROM runtime AS proxy
COPY --from=proxy-packages /opt/quiver /opt/quiver
COPY litellm_config.yaml /etc/quiver/litellm_config.yaml
ENV LITELLM_MODE=PRODUCTION LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_LOG=ERROR LITELLM_PORT=4000 \
    OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=NO_CONTENT \
    EMBEDDER_API_KEY=none QUIVER_PG_VECTOR_STORE_ID=quiver-pg-vector QUIVER_OPENAI_VECTOR_STORE_ID=quiver-openai
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-IS", "/usr/local/lib/quiver/healthcheck.py", "LITELLM_PORT", "/health/liveliness"]
CMD ["litellm", "--config", "/etc/quiver/litellm_config.yaml", "--host", "0.0.0.0", "--port", "4000"]

# Both functions: `api.lambda_handler.handler` answers requests, `api.lambda_worker.handler` drains the queue.
FROM runtime AS lambda
COPY --from=lambda-packages /opt/quiver /opt/quiver
COPY --from=quiver /opt/quiver /opt/quiver
# Lambda looks after its functions; they listen to nobody who could ask.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "awslambdaric"]
CMD ["api.lambda_handler.handler"]

FROM runtime AS api
COPY --from=api-packages /opt/quiver /opt/quiver
COPY --from=quiver /opt/quiver /opt/quiver
ENV HOST=0.0.0.0 PORT=8000 QUIVER_DATA_DIR=/var/lib/quiver
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-IS", "/usr/local/lib/quiver/healthcheck.py", "PORT", "/health"]
ENTRYPOINT ["quiver"]
CMD ["api"]

FROM api AS worker
ENV WORKER_PORT=8002
EXPOSE 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-IS", "/usr/local/lib/quiver/healthcheck.py", "WORKER_PORT", "/health"]
CMD ["worker"]
