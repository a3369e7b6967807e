# The load of the end-to-end tests. Built by images/build, which puts the program into the context.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BASE}
COPY rdb-load /usr/local/bin/rdb-load
USER 65532:65532
EXPOSE 7800
ENTRYPOINT ["/usr/local/bin/rdb-load"]
