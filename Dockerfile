# The project in a container: `docker build --tag eql_d2 .` for the CPU, with `--build-arg VARIANT=cuda` for GPUs.
# PyTorch's wheels bring their CUDA along; the host needs NVIDIA's driver and its container toolkit alone.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm
ARG VARIANT=cpu
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/* \
    && case "$VARIANT" in cpu|cuda) ;; *) echo "VARIANT is $VARIANT; it must be cpu or cuda" >&2; exit 1 ;; esac
WORKDIR /eql_d2
COPY . .
# The lock, Detectron2 and this package. Builds without CUDA are a tenth of the size; they have their own index.
RUN make setup && rm -rf .cache /root/.cache \
    && if [ "$VARIANT" = cpu ]; then \
        python -m pip install --quiet --no-cache-dir uv \
        && versions=$(.venv/bin/python -c "from importlib.metadata import version; print(*(f'{name}=={version(name).partition(\"+\")[0]}' for name in ('torch', 'torchvision')))") \
        && uv pip install --python .venv/bin/python --no-deps --reinstall --no-cache \
            --index-url https://download.pytorch.org/whl/cpu $versions \
        && uv pip freeze --python .venv/bin/python | grep -o '^nvidia-[a-z0-9-]*' | xargs -r uv pip uninstall --python .venv/bin/python; \
    fi
ENV PATH=/eql_d2/.venv/bin:$PATH
CMD ["eql-d2", "--help"]
