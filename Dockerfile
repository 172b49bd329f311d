# labk in a container: docs/docker.md. Built from the checkout alone:
#   docker build -t labk .
#   docker run -d --name labk --privileged --tmpfs /run -v labk:/var/lib/labk -p 6443:6443 labk
ARG GO_VERSION=1.26
ARG DEBIAN=bookworm

FROM golang:${GO_VERSION}-${DEBIAN} AS build
WORKDIR /src
COPY . .
# The caches outlive the build: the first takes minutes, the next one seconds.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build scripts/build.sh

FROM debian:${DEBIAN}-slim
# nftables and netbase are what labk needs of a PC, ca-certificates is for registries, tini ends what the pods' processes leave behind.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates mount netbase nftables tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/dist/labk /usr/local/bin/labk
COPY package/docker/entrypoint.sh /usr/local/bin/entrypoint.sh
RUN ln -s labk /usr/local/bin/kubectl && ln -s labk /usr/local/bin/ctr
# Not on the container's overlay: containerd has overlays of its own there.
VOLUME ["/var/lib/labk"]
EXPOSE 6443/tcp 10250/tcp 8472/udp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/entrypoint.sh"]
CMD ["server"]
