# syntax=docker/dockerfile:1
# The image of every job, and of Spark's drivers and executors on Kubernetes (docs/containers.md).
#
#     docker build --tag mamdr .
#     docker build --tag mamdr-airflow --target airflow .
#
# environment/container_check.py runs these instructions in clean Debian roots, without Docker.

ARG BASE=debian:bookworm-slim

# The cache of set-up and the compiler's files stay in this stage. pip's settings and an authority's certificate, where
# the registries need them, are secrets: --secret id=pip.conf,src=FILE --secret id=ca.crt,src=FILE.
FROM ${BASE} AS build
WORKDIR /opt/mamdr
COPY . .
RUN --mount=type=cache,target=/var/cache/mamdr \
    --mount=type=secret,id=pip.conf \
    --mount=type=secret,id=ca.crt \
    environment/docker/build.sh

FROM build AS build-airflow
RUN --mount=type=cache,target=/var/cache/mamdr \
    --mount=type=secret,id=pip.conf \
    --mount=type=secret,id=ca.crt \
    environment/docker/build.sh airflow

FROM ${BASE} AS run
RUN --mount=type=bind,source=environment/docker,target=/mnt \
    /mnt/run.sh
COPY --from=build /opt/mamdr /opt/mamdr
ENV PATH=/opt/mamdr/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV LANG=C.UTF-8
ENV HOME=/home/mamdr
# What NVIDIA's container runtime adds for a container that was given a GPU: the driver's libraries, and nvidia-smi for
# Spark. Which GPUs, if any, is for `docker run --gpus` and Kubernetes to say.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/mamdr
# By number, so that Kubernetes can check that it is not root.
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/entrypoint.sh"]
CMD ["spark-submit", "--version"]

# Airflow with the daily DAG, which calls the jobs of this image (environment/kubernetes/airflow.yaml).
FROM run AS airflow
COPY --from=build-airflow /opt/mamdr/.venv-airflow /opt/mamdr/.venv-airflow
# `airflow standalone` starts `airflow scheduler` and its siblings; python stays that of .venv.
ENV PATH=/opt/mamdr/.venv/bin:/opt/mamdr/.venv-airflow/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV AIRFLOW_HOME=/home/mamdr/airflow
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/mamdr/airflow_dags
ENV AIRFLOW__CORE__LOAD_EXAMPLES=False
CMD ["airflow", "standalone"]

# The last stage is what `docker build` makes without --target.
FROM run AS mamdr
