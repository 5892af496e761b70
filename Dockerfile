# fervid with its models, as a user without rights: docker build -t fervid . && docker run --rm fervid doctor
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/fervid
# Dependencies first, in the versions that are tested: this layer stays until they change.
COPY pyproject.toml requirements-dev.lock ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && sed 's/ *\\$//; /--hash=/d' requirements-dev.lock > constraints.txt \
    && /opt/fervid/bin/pip install -r requirements.txt -c constraints.txt
COPY README.md LICENSE ./
COPY models models
COPY fervid fervid
RUN /opt/fervid/bin/pip install --no-deps .

FROM python:${PYTHON}-slim
COPY --from=build /opt/fervid /opt/fervid
# Any --user will do: the home that caches may go to is a folder that everybody can write.
ENV PATH=/opt/fervid/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /clips
ENTRYPOINT ["fervid"]
CMD ["--help"]
