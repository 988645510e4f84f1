# varve-worker: docker build -f deploy/docker/worker.Dockerfile -t varve-worker \
#   --build-arg VARVE_COMMIT=$(git rev-parse --short HEAD) .   (from the root of the checkout)
FROM debian:bookworm AS build
WORKDIR /src
COPY deploy/install_deps.sh deploy/
RUN ./deploy/install_deps.sh && rm -rf /var/lib/apt/lists/*
COPY CMakeLists.txt CMakePresets.json ./
COPY proto/ proto/
COPY kvstore/ kvstore/
COPY client/ client/
COPY gpu_worker/ gpu_worker/
ARG VARVE_COMMIT=
RUN cmake --preset release -DVARVE_BUILD_TESTS=OFF -DVARVE_CUDA=OFF -DVARVE_COMMIT="$VARVE_COMMIT" \
    && cmake --build build/release --target varve-worker varvectl \
    && strip build/release/bin/varve-worker build/release/bin/varvectl

FROM debian:bookworm-slim
# The libraries that `ldd varve-worker varvectl` names, by their packages, and an init that forwards signals.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        tini libgrpc++1.51 libprotobuf32 libucx0 libprometheus-cpp-core1.0 libcivetweb1 libspdlog1.10 libyaml-cpp0.7 \
        libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin varve
COPY --from=build /src/build/release/bin/varve-worker /src/build/release/bin/varvectl /usr/local/bin/
COPY deploy/config/varve-worker.yaml /etc/varve/varve-worker.yaml
USER 65532:65532
EXPOSE 7421 7422
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/varve-worker"]
CMD ["--config=/etc/varve/varve-worker.yaml", "--listen=0.0.0.0:7421", "--http_listen=0.0.0.0:7422"]
