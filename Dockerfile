# One image with both programs, billing-service (the default command) and webhook-gateway, and the operators' `billing`.
#   docker build -t billing-service .
# The base is named by its digest, because a tag can be moved; `make images` compares (docs/operations.md). The
# argument names another one.
ARG PYTHON_IMAGE=python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src

# What runs (for the operators' command line 8 packages more), and beside it what builds, each from its hash-pinned lock: nothing else is
# ever downloaded.
COPY requirements/runtime.txt requirements/cli.txt requirements/build.txt requirements/
RUN python -m venv /opt/billing \
 && /opt/billing/bin/python -m pip install --require-hashes -r requirements/runtime.txt -r requirements/cli.txt
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes -r requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY billing_service billing_service
COPY webhook_gateway webhook_gateway
COPY clients clients
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . ./clients/python ./clients/cli \
 && /opt/billing/bin/python -m pip install --no-deps --no-index dist/*.whl \
 && /opt/billing/bin/python -m compileall -q /opt/billing/lib \
 && /opt/billing/bin/python -m pip uninstall --yes --quiet pip

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/billing/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# No shell, no home, nothing that it owns: the programs write nothing to disk.
RUN useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --uid 10001 billing
COPY --from=build /opt/billing /opt/billing
COPY catalog.toml /etc/billing/catalog.toml
ENV BILLING_CATALOG=/etc/billing/catalog.toml
USER 10001:10001
WORKDIR /
# Health checks are per program, in docker-compose.yml or whatever runs the image.
CMD ["billing-service", "serve"]
