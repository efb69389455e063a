# syntax=docker/dockerfile:1
# merge-bot with torch for CUDA: docker run --gpus all IMAGE plan owner/adapter
# For machines without a GPU, a third of the size: docker build --build-arg VARIANT=cpu .
# docs/image.md says how to run it, and how to pin what it is built on.
ARG VARIANT=cuda

# `base`, not `runtime`: torch's wheels bring cuBLAS, cuDNN and the rest; a second copy would be gigabytes. What the
# image adds to plain Ubuntu is the check of the driver and the libraries for older ones. The version is that of torch's
# default build; the tag is not pinned by digest, as NVIDIA takes old digests away.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS cuda
# The versions of Ubuntu's packages are left open: mirrors only hold the newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV TORCH=cu130

FROM python:3.12-slim-trixie AS cpu
ENV TORCH=cpu

# hadolint ignore=DL3006
FROM ${VARIANT}

# 1001 is the user of GitHub's hosted runners, whose files a job in this container has to write. Everybody may write
# into the two places for volumes, so that any other `--user` works. Nothing else is written, so the rest may be
# read-only.
RUN useradd --uid 1001 --gid 0 --create-home merge-bot \
    && chmod 775 /home/merge-bot \
    && install --directory --mode 1777 /scratch /state
ENV HOME=/home/merge-bot \
    HF_HOME=/scratch/huggingface \
    MERGE_BOT_SCRATCH=/scratch/merges \
    MERGE_BOT_SERVER__HOST=0.0.0.0 \
    MERGE_BOT_SERVER__PORT=8000 \
    MERGE_BOT_SERVER__STATE=/state \
    MPLCONFIGDIR=/scratch/matplotlib \
    PATH=/opt/merge-bot/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/scratch \
    XDG_CACHE_HOME=/scratch/cache

# Without the internet: a folder of wheels, mounted, in the place of an index.
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS

# What changes seldom comes first: the exact versions of everything but merge-bot itself.
COPY pyproject.toml constraints.txt /build/
RUN python3 -m venv /opt/merge-bot \
    && python3 -c "import tomllib; p = tomllib.load(open('/build/pyproject.toml', 'rb'))['project']; o = p['optional-dependencies']; print(*p['dependencies'], *o['github'], *o['serve'], sep='\n')" >/build/requirements.txt \
    && pip install --extra-index-url "https://download.pytorch.org/whl/$TORCH" --constraint /build/constraints.txt \
       --requirement /build/requirements.txt

COPY README.md LICENSE /build/
COPY bot /build/bot
RUN PIP_CONSTRAINT=/build/constraints.txt pip install --no-deps /build \
    && merge-bot --version

ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="merge-bot" \
      org.opencontainers.image.description="Merges a PEFT adapter into its base model, proves the result, and publishes it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

USER 1001
WORKDIR /home/merge-bot
EXPOSE 8000
# Of the service alone: whatever else runs in here has nothing that could be asked.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["sh", "-c", "grep --quiet --null-data '^serve$' /proc/1/cmdline || exit 0; exec python3 -c \"import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['MERGE_BOT_SERVER__PORT'] + '/healthz', timeout=4)\""]
ENTRYPOINT ["merge-bot"]
CMD ["--help"]
