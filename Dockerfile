# The worker and the command-line client: `docker run gleitzeit --help`.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin gleitzeit

FROM debian:bookworm-slim
# python3 is what python/v1 runs; the certificates are for amqps:// and rediss://.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/gleitzeit --create-home --shell /usr/sbin/nologin gleitzeit
COPY --from=build /src/target/release/gleitzeit /usr/local/bin/gleitzeit
USER 10001:10001
WORKDIR /var/lib/gleitzeit
ENV GLEITZEIT_PYTHON_INTERPRETER=/usr/bin/python3
ENTRYPOINT ["gleitzeit"]
CMD ["worker"]
