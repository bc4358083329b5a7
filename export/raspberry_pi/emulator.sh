#!/usr/bin/env bash
# Unpacks QEMU and an arm64 Python with numpy and LiteRT into a folder, to run classify.py as on a
# Raspberry Pi. Needs Debian's apt-get and dpkg, and pip; no root. Timings there mean nothing.
set -euo pipefail
folder=$(realpath -m "${1:-.arm64}")
litert=${2:-1.4.0}  # 2.3.0 crashes under QEMU 7.2
python=$(command -v "${PYTHON:-python3}")
[[ $python == /* ]] || python=$PWD/$python
[ ! -e "$folder/complete" ] || [ "$(cat "$folder/complete")" != "$litert" ] || exit 0
if [ -n "$(ls -A "$folder" 2>/dev/null)" ] && [ ! -e "$folder/emulator" ]; then
  echo "emulator.sh: error: $folder must be empty or of this script" >&2
  exit 2
fi
rm -rf "$folder"
mkdir -p "$folder"
touch "$folder/emulator"
mkdir -p "$folder"/{apt/lists/partial,apt/cache/archives/partial,debs,wheels,system,site,qemu}
cd "$folder"

apt-get download -qq qemu-user-static
dpkg -x qemu-user-static_*.deb qemu
cat > apt.conf <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State::lists "$folder/apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$folder/apt/cache";
CONF
export APT_CONFIG="$folder/apt.conf"
apt-get update -qq
(cd debs && apt-get download -qq python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
  libc6 zlib1g libexpat1 libgcc-s1 libstdc++6 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libcrypt1)
for package in debs/*.deb; do dpkg -x "$package" system; done

fetch() {
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --python-version 311 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 --dest wheels "$1"
}
fetch numpy==1.26.4
fetch "ai-edge-litert==$litert"
for wheel in wheels/*.whl; do "$python" -m zipfile -e "$wheel" site; done

cat > python <<RUN
#!/bin/sh
PYTHONPATH="$folder/site" exec "$folder/qemu/usr/bin/qemu-aarch64-static" -L "$folder/system" \\
  "$folder/system/usr/bin/python3.11" "\$@"
RUN
chmod +x python
./python -c "import platform; assert platform.machine() == 'aarch64'; import ai_edge_litert, numpy"
echo "$litert" > complete
