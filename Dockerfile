# The image for those who have a container engine; `cargo xtask image` makes a like one without. It builds nothing: it takes
# the static binary and the licences that `cargo xtask dist` has put into target/dist, which is its build context:
#
#   cargo xtask dist && cp LICENSE-* target/dist/
#   docker buildx build --platform linux/arm64,linux/amd64 --tag registry.example.org/berrylb:0.1.0 --file Dockerfile target/dist
FROM scratch
ARG TARGETARCH
LABEL org.opencontainers.image.title="berrylb" org.opencontainers.image.licenses="Apache-2.0"
COPY --chmod=0755 berrylb-linux-${TARGETARCH} /berrylb
COPY LICENSE-APACHE LICENSE-GPL-2.0 THIRD-PARTY-LICENSES.txt /licenses/
ENTRYPOINT ["/berrylb"]
CMD ["agent"]
