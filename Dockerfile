# syntax=docker/dockerfile:1
# One image, one engine. Build: docker build -t serverless-embeddings .
# Arguments:
#   WORLD=gpu|cpu      which lock is installed
#   BASE_IMAGE         any Debian 12; the digest is Debian's own image of 2026-08-24
#   ADAPTER_IMAGE      where the Lambda Web Adapter comes from; `no-adapter` leaves it out
#   TRIM=false         leaves in what text embedding never loads (infra/image/dropped.toml)
#   WEIGHTS=folder     bakes a model folder of the build context in; by default no weights are in the image
# Packages of your own index: docker build --secret id=pip.conf,src=pip.conf ...
ARG WORLD=gpu
ARG BASE_IMAGE=docker.io/library/debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
ARG ADAPTER_IMAGE=public.ecr.aws/awsguru/aws-lambda-adapter:1.0.0

# ---- what runs, without a package
FROM ${BASE_IMAGE} AS base
ARG WORLD
# Triton compiles its launchers with a C compiler while the engine runs; the CPU engine runs eagerly by default and needs none.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libnuma1 python3 \
        $(test "$WORLD" = cpu || echo gcc libc6-dev python3-dev) \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin embed \
    && mkdir -p /lambda-adapter /opt/ml/model \
    && install -d -o embed -g embed /cache

# Takes the place of the adapter's image where it is not wanted: an empty folder instead of the program.
FROM base AS no-adapter
FROM ${ADAPTER_IMAGE} AS adapter

# ---- packages: locked, trimmed, compiled
FROM base AS packages
ARG WORLD
RUN apt-get update && apt-get install --yes --no-install-recommends binutils gcc libc6-dev python3-dev python3-venv
COPY infra/requirements/install.sh infra/requirements/h1c.txt infra/requirements/${WORLD}.txt /build/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    PIP_NO_CACHE_DIR=1 PIP_COMPILE=0 sh /build/install.sh /opt/venv /build/${WORLD}.txt
ARG TRIM=true
COPY infra/image/trim.py infra/image/dropped.toml /build/image/
RUN case $TRIM in \
    true) python3 /build/image/trim.py /opt/venv/lib/python3.11/site-packages ;; \
    false) ;; \
    *) echo "TRIM is true or false, not '$TRIM'" >&2; exit 1 ;; \
    esac
# Bytecode that is never compared with its source again: the image is read-only, and each look would cost the start.
# A few packages carry templates that are no Python; what fails to compile here would fail to import below.
RUN python3 -m compileall -qq -f -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true
COPY infra/image/bake_model_info.py /build/image/
RUN PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 /opt/venv/bin/python /build/image/bake_model_info.py /opt/embed/cache \
    && chmod -R a+rX /opt/embed

# ---- the list of all parts, of what the stages above really hold; what writes it stays out of the image
FROM packages AS sbom
ARG ADAPTER_IMAGE
COPY infra/requirements/audit.txt pyproject.toml /build/
COPY --from=base /var/lib/dpkg /build/dpkg
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /build/tools && /build/tools/bin/pip install --no-cache-dir --no-deps --requirement /build/audit.txt
COPY infra/image/sbom.py /build/image/
RUN dpkg-query --admindir=/build/dpkg --show \
        --showformat='${Package}\t${Version}\t${Architecture}\t${db:Status-Abbrev}\n' >/build/debian.txt \
    && /build/tools/bin/cyclonedx-py environment --output-reproducible --pyproject /build/pyproject.toml \
        --output-file /build/python.json /opt/venv/bin/python \
    && python3 /build/image/sbom.py /build/python.json /build/debian.txt "$ADAPTER_IMAGE" /build/sbom.json

# ---- the server's own few files
FROM base AS server
COPY handler /opt/embed/handler
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/embed/handler

# ---- the image; what changes most comes last
FROM base
ARG WEIGHTS=infra/image/no-weights
LABEL org.opencontainers.image.title="serverless-embeddings" \
    org.opencontainers.image.description="One vLLM engine behind OpenAI's embeddings API" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=adapter /lambda-adapter /opt/extensions/lambda-adapter
COPY --from=packages /opt/venv /opt/venv
COPY --from=packages /opt/embed/cache /opt/embed/cache
COPY LICENSE /opt/embed/
COPY ${WEIGHTS} /opt/ml/model
COPY --from=sbom /build/sbom.json /opt/embed/
COPY --from=server /opt/embed/handler /opt/embed/handler
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PORT=8080 \
    EMBED_MODEL_PATH=/opt/ml/model \
    EMBED_BAKED_CACHE_DIR=/opt/embed/cache \
    AWS_LWA_READINESS_CHECK_PATH=/ready \
    AWS_LWA_READINESS_CHECK_HEALTHY_STATUS=200 \
    AWS_LWA_INVOKE_MODE=response_stream \
    LD_LIBRARY_PATH=/x86_64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/embed
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/ready', timeout=4)"]
# gunicorn's master is process 1: it handles the signals and collects its children. `serve` may follow, as on SageMaker.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "handler"]
