#!/usr/bin/env bash
# Build a Python without a GIL from Debian's sources, once: some four minutes on two cores.
#
#     tools/free_threaded_python.sh VERSION FOLDER
#
#   VERSION  3.13 or newer
#   FOLDER   where it is installed; FOLDER/bin/pythonVERSIONt
#
# PYTHON_CONFIGURE and PYTHON_CFLAGS are more options of configure and of the compiler.
# The source is that of Debian's next releases, from the mirror that this machine has packages from.
set -euo pipefail

version=$1
folder=$(realpath -m "$2")
[[ -x $folder/bin/python${version}t ]] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "this needs Debian or Ubuntu; elsewhere: PYTHON_FREE_THREADED=/path/to/python${version}t" >&2
    exit 1
fi

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

mkdir -p "$folder/source"
cd "$folder/source"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
for suite in trixie forky sid; do
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >sources.list
options=(-q -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o APT::Get::List-Cleanup=0)
mkdir -p lists/partial cache/archives/partial
packages=(build-essential dpkg-dev libssl-dev zlib1g-dev libbz2-dev liblzma-dev libffi-dev libsqlite3-dev)
echo "fetching what compiles CPython, and its source"
as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q install --no-install-recommends "${packages[@]}" >packages.log 2>&1
apt-get "${options[@]}" update >update.log 2>&1 || true # one suite may be gone: the next line decides
is_here=
for suite in forky sid trixie; do # a mirror may lack the files of one of them
    if apt-get "${options[@]}" source --download-only "python$version/$suite" >>source.log 2>&1; then
        is_here=1
        break
    fi
done
if [[ -z $is_here ]]; then
    tail -n 20 source.log >&2
    exit 1
fi
tar -xf "$(ls -t python"$version"_*.orig.tar.* | head -n 1)"
cd Python-"$version"*/
echo "compiling Python $version without a GIL"
./configure -q --disable-gil --prefix="$folder" CFLAGS="-O2 ${PYTHON_CFLAGS:-}" ${PYTHON_CONFIGURE:-} >../configure.log 2>&1
make -s -j"$(nproc)" >../make.log 2>&1
make -s install >../install.log 2>&1
cd "$folder"
cp source/Python-*/Tools/tsan/suppressions_free_threading.txt . 2>/dev/null || true # 3.13 and 3.14 have it
rm -rf source
"bin/python${version}t" -c 'import sys; assert not sys._is_gil_enabled(); print(sys.version)'
