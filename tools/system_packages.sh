#!/usr/bin/env bash
# Install the missing Debian packages, and only those.
#
#     tools/system_packages.sh PYTHON build   everything needed to compile; a failure is an error
#     tools/system_packages.sh PYTHON test    the interpreter's own test package, for the conformance tests,
#                                             spin, for docs/spin, openssl, tmux, PyGObject or what compiles it,
#                                             GTK 3 and Xvfb for the example with a window; never an error
#     tools/system_packages.sh PYTHON gate    valgrind, for the benchmarks' gate, which fails without
#     tools/system_packages.sh PYTHON fuzz    clang, for `make fuzz-parsers`, which fails without
#     tools/system_packages.sh PYTHON kernels KERNEL...   QEMU and what makes an initramfs, for tools/kernels, which
#                                             fails without; for arm64 also a compiler
#
# It tries what is available instead of checking package names: an interpreter may come from elsewhere.
set -euo pipefail

python=$1
purpose=$2
APT_TIMEOUT_S=900

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        echo "this needs root or sudo: $*" >&2
        return 1
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@" # a password cannot be typed here
    fi
}

apt() {
    as_root timeout "$APT_TIMEOUT_S" env DEBIAN_FRONTEND=noninteractive \
        apt-get -y -q -o DPkg::Lock::Timeout=120 "$@"
}

update() {
    # One unreachable source among several is no reason to stop: the installation decides.
    apt update || echo "apt-get update failed; continuing with the existing package lists" >&2
}

# The interpreter's version as in package names; fails unless the interpreter is from a Debian package.
debian_version() {
    command -v dpkg >/dev/null || return 1
    local real
    real=$("$python" -c 'import os, sys; print(os.path.realpath(sys._base_executable))') || return 1
    dpkg -S "$real" >/dev/null 2>&1 || return 1
    "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

python_has() {
    "$python" -c "$1" >/dev/null 2>&1
}

# The missing package names, one per line; `!text` for anything that no package of this system can provide.
missing_for_build() {
    local version headers='import sysconfig; open(sysconfig.get_path("include") + "/Python.h").close()'
    if ! command -v "$python" >/dev/null && [ "$python" = python3 ]; then
        printf '%s\n' python3 python3-venv python3-dev
    elif ! command -v "$python" >/dev/null; then
        echo "!the interpreter $python"
    elif version=$(debian_version); then
        python_has 'import ensurepip, venv' || echo "python$version-venv"
        python_has "$headers" || echo "python$version-dev"
    else
        python_has 'import ensurepip, venv' || echo "!the modules venv and ensurepip of $python"
        python_has "$headers" || echo "!the headers of $python (Python.h)"
    fi
    command -v "${CC:-gcc}" >/dev/null || echo gcc
    echo '#include <stdio.h>' | "${CC:-gcc}" -E - >/dev/null 2>&1 || echo libc6-dev
    if [ "${URINGLOOP_SYSTEM_LIBURING:-0}" != 0 ]; then
        command -v pkg-config >/dev/null || echo pkg-config
        pkg-config --exists liburing 2>/dev/null || echo liburing-dev
    fi
}

check_version() {
    if ! python_has 'import sys; raise SystemExit(sys.version_info < (3, 11))'; then
        echo "uringloop needs Python 3.11 or newer; $python is $("$python" -V 2>&1)." >&2
        echo "Name another one: make PYTHON=python3.11 ..." >&2
        exit 1
    fi
}

prepare_build() {
    local missing
    mapfile -t missing < <(missing_for_build)
    if [ ${#missing[@]} -gt 0 ]; then
        if [[ "${missing[*]}" == *'!'* ]] || ! command -v apt-get >/dev/null; then
            printf 'missing, and apt-get cannot install it here: %s\n' "${missing[@]#!}" >&2
            exit 1
        fi
        echo "installing: ${missing[*]}"
        update
        apt install --no-install-recommends "${missing[@]}"
        hash -r
        mapfile -t missing < <(missing_for_build)
        if [ ${#missing[@]} -gt 0 ]; then
            printf 'still missing: %s\n' "${missing[@]#!}" >&2
            exit 1
        fi
    fi
    check_version
}

# A command from the package of that name; where it cannot be installed, what needs it is skipped, or fails.
prepare_command() {
    if command -v "$1" >/dev/null; then return; fi
    if command -v apt-get >/dev/null && update && apt install --no-install-recommends "$1"; then
        echo "installed $1"
    else
        echo "$1 could not be installed: $2"
    fi
}

prepare_testsuite() {
    local version package
    if python_has 'import test.test_asyncio'; then return; fi
    version=$(debian_version) || version=
    package=libpython$version-testsuite
    if [ -z "$version" ]; then
        echo "$python has no test package: the conformance tests will be skipped"
    elif update && apt-cache show "$package" >/dev/null 2>&1 &&
        apt install --no-install-recommends "$package"; then
        echo "installed $package"
    else
        echo "$package could not be installed: the conformance tests will be skipped"
    fi
}

# Debian's PyGObject only works with Debian's interpreter; for others pip compiles it, with the packages installed here.
prepare_glib() {
    if python_has 'import gi'; then return; fi
    local packages=(python3-gi)
    if [ -z "$(debian_version || true)" ]; then
        local headers=libgirepository-2.0-dev # since GLib 2.80
        if pkg-config --exists girepository-2.0 cairo || pkg-config --exists gobject-introspection-1.0 cairo; then
            return
        fi
        apt-cache show "$headers" >/dev/null 2>&1 || headers=libgirepository1.0-dev
        packages=("$headers" libcairo2-dev pkg-config)
    fi
    if command -v apt-get >/dev/null && update && apt install --no-install-recommends "${packages[@]}"; then
        echo "installed ${packages[*]}"
    else
        echo "${packages[*]} could not be installed: the GLib tests will be skipped unless $python gets PyGObject"
    fi
}

prepare_gtk() {
    local missing=() why="the example with a GTK window will not be tested"
    # Check for the file: PyGObject, which loads it, may not be installed yet.
    compgen -G '/usr/lib/*/girepository-1.0/Gtk-3.0.typelib' >/dev/null || missing+=(gir1.2-gtk-3.0)
    command -v Xvfb >/dev/null || missing+=(xvfb)
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    if command -v apt-get >/dev/null && update && apt install --no-install-recommends "${missing[@]}"; then
        echo "installed ${missing[*]}"
    else
        echo "${missing[*]} could not be installed: $why"
    fi
}

prepare_kernels() {
    local missing=()
    command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
    if [[ " $* " == *-arm64\ * ]]; then
        command -v qemu-system-aarch64 >/dev/null || missing+=(qemu-system-arm)
        [ "$(uname -m)" = aarch64 ] || command -v aarch64-linux-gnu-gcc >/dev/null ||
            missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
    fi
    # for other users they are not in PATH
    [ -x /usr/sbin/debootstrap ] || missing+=(debootstrap)
    command -v cpio >/dev/null || missing+=(cpio)
    command -v gpgv >/dev/null || missing+=(gpgv)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    echo "installing: ${missing[*]}"
    update
    apt install --no-install-recommends "${missing[@]}"
}

case $purpose in
    build) prepare_build ;;
    test)
        prepare_testsuite
        prepare_command spin "the model of the notify protocol will not be checked"
        prepare_command openssl "refusing to renegotiate TLS will not be tested"
        prepare_command tmux "the screen of the live view will not be tested"
        prepare_glib
        prepare_gtk
        ;;
    gate) prepare_command valgrind "instructions cannot be counted" ;;
    fuzz) prepare_command clang "parsers cannot be fuzzed" ;;
    kernels) prepare_kernels "${@:3}" ;;
    *) echo "unknown purpose: $purpose" >&2; exit 2 ;;
esac
