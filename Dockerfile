# The tests in a container, on the CPU:
#   docker build --build-arg TORCH_CPU_INDEX=ADDRESS -t torchstone-tests . && docker run --rm torchstone-tests
# ADDRESS is PyTorch's index of builds for the CPU; without it torch brings gigabytes of CUDA along.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /torchstone
COPY constraints.txt ./
ARG TORCH_CPU_INDEX=
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir -c constraints.txt torch ${TORCH_CPU_INDEX:+--index-url "$TORCH_CPU_INDEX"}
COPY . .
RUN make .venv/test.stamp
CMD ["make", "test"]
