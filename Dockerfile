# syntax=docker/dockerfile:1
# merge-bot with torch for CUDA: docker run --gpus all IMAGE plan owner/adapter
# For machines without a GPU, a third of the size: docker build --build-arg TORCH_BACKEND=cpu .

# `base`, not `runtime`: torch's wheels bring cuBLAS, cuDNN and the rest; a second copy would be gigabytes. What the
# image adds to plain Ubuntu is the check of the driver and the libraries for older ones. The version is that of torch's
# default build; the tag is not pinned by digest, as NVIDIA takes old digests away.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# The versions of Ubuntu's packages are left open: mirrors only hold the newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

# 1001 is the user of GitHub's hosted runners, whose files a job in this container has to write. Group 0 may write as
# well, so that any other `--user` works.
RUN useradd --uid 1001 --gid 0 --create-home merge-bot && chmod 775 /home/merge-bot
ENV HOME=/home/merge-bot \
    PATH=/opt/merge-bot/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/merge-bot

# What changes seldom comes first: the exact versions of everything but merge-bot itself.
ARG TORCH_BACKEND=cu130
COPY pyproject.toml constraints.txt /build/
RUN --mount=from=ghcr.io/astral-sh/uv:0.12.4@sha256:d0a6eca6c669dc7e9c51218707b8438a3d30402733d739dcc00adb3e213e8f5c,source=/uv,target=/usr/local/bin/uv \
    uv venv --python /usr/bin/python3 "$VIRTUAL_ENV" \
    && uv pip install --torch-backend "$TORCH_BACKEND" --compile-bytecode --constraint /build/constraints.txt \
       --requirements /build/pyproject.toml --extra github --extra serve

COPY README.md LICENSE /build/
COPY bot /build/bot
RUN --mount=from=ghcr.io/astral-sh/uv:0.12.4@sha256:d0a6eca6c669dc7e9c51218707b8438a3d30402733d739dcc00adb3e213e8f5c,source=/uv,target=/usr/local/bin/uv \
    uv pip install --no-deps --compile-bytecode --build-constraint /build/constraints.txt /build \
    && merge-bot --version

USER 1001
WORKDIR /home/merge-bot
ENTRYPOINT ["merge-bot"]
CMD ["--help"]
