# The hub's image: the application in /app, its locked packages, an ordinary user. Nothing of it need be writable
# but /data (a volume: the store) and /tmp. Build it with BuildKit: `docker build --tag fedqueue .`
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

# Bytecode is written here once and never at run time, when the root is read-only.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEDQUEUE_HOME=/data \
    NUMBA_CACHE_DIR=/tmp/numba

# Before the volume is first mounted it is a copy of this folder, owner included.
RUN ["install", "--directory", "--owner=10001", "--group=10001", "--mode=0750", "/data"]

WORKDIR /app

# A mirror's pip.conf is lent for this one step (`--secret id=pip_conf,src=pip.conf`) and stays out of the image.
COPY requirements/run.txt requirements/run.txt
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf,required=false \
    ["python", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore", \
     "--require-hashes", "--requirement", "requirements/run.txt"]

COPY config/ config/
COPY connectors/ connectors/
COPY fedqueue/ fedqueue/
COPY tasks/ tasks/
COPY worker/ worker/
COPY LICENSE LICENSE
RUN ["python", "-m", "compileall", "-q", "config", "connectors", "fedqueue", "tasks", "worker"]

USER 10001:10001

ENTRYPOINT ["python", "-m", "worker"]
CMD ["worker"]
