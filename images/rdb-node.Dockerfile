# The program alone on a base with glibc. Built by images/build, which puts the program into the context.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BASE}
COPY rdb-node /usr/local/bin/rdb-node
USER 65532:65532
EXPOSE 7700
ENTRYPOINT ["/usr/local/bin/rdb-node"]
