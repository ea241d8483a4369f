# The reading room in a small image: no compiler, no root, nothing to write to but /data.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml requirements-container.txt README.md LICENSE NOTICE ./
COPY src ./src
RUN python -m venv /room \
    && /room/bin/pip install --no-cache-dir --no-compile --require-hashes -r requirements-container.txt \
    && /room/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation '.[serve,survival,dicom,sign]' \
    && /room/bin/pip uninstall --yes hatchling pip \
    && find /room -name tests -type d -prune -exec rm -rf {} +

FROM python:3.12-slim
LABEL org.opencontainers.image.title="leukoscope reading room" \
      org.opencontainers.image.description="Second opinions on blood cells, read by people. Research use, not a diagnosis."
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin reader \
    && mkdir /data && chown reader:reader /data
COPY --from=build /room /room
ENV PATH=/room/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp LEUKOSCOPE_DATA=/data
USER reader
VOLUME /data
EXPOSE 8765
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python", "-c", "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8765/api/v1/health', headers={'Host': 'localhost:8765'}), timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["leukoscope"]
CMD ["serve", "--host", "0.0.0.0", "--no-browser"]
