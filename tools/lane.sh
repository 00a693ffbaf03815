#!/usr/bin/env bash
# Run the tests against another build of the package, in a copy of the tree, with the packages of $VENV:
#
#     tools/lane.sh debug|sanitized|without-liburing|wheel [pytest arguments]
#
#   debug             assertions compiled in
#   sanitized         AddressSanitizer and UBSan, with assertions: tests of memory that the kernel reads and writes
#   without-liburing  only epoll and poll
#   wheel             a wheel in a virtual environment of its own, without the package's source
set -euo pipefail
cd "$(dirname "$0")/.."

lane=$1
shift
python=$PWD/${VENV:-.venv}/bin/python
folder=$PWD/build/lanes/$lane
tests=()
case $lane in
    debug)
        export URINGLOOP_DEBUG=1
        tests=(tests/unit tests/raw tests/behaviour --monitor uringloop)
        ;;
    sanitized)
        export URINGLOOP_DEBUG=1 URINGLOOP_SANITIZE=1
        tests=(tests/unit/uring/test_r*.py tests/unit/fdmon/test_fdmon_*.py tests/unit/aio/test_ready.py
            tests/unit/transports/test_send_queue.py tests/unit/test_refused_calls.py
            tests/raw --ignore tests/raw/test_out_of_memory.py
            tests/behaviour/nested/test_nested_*.py tests/behaviour/streams/test_read_boundaries.py
            tests/behaviour/streams/test_closing.py tests/behaviour/streams/test_half_closed.py
            tests/behaviour/streams/test_order_with_others.py)
        ;;
    without-liburing)
        export URINGLOOP_WITHOUT_LIBURING=1
        tests=(tests/unit tests/behaviour --monitor epoll --monitor poll)
        ;;
    wheel) tests=(tests/unit tests/raw tests/behaviour --monitor io_uring) ;;
    *)
        echo "unknown lane: $lane" >&2
        exit 2
        ;;
esac

# Copy the files of the tree, which need not be a checkout, without build products.
rm -rf "$folder"
mkdir -p "$folder"
tar --exclude='./build' --exclude='./.git' --exclude="./${VENV:-.venv}" --exclude='*.so' --exclude='__pycache__' \
    --exclude='*.egg-info' --exclude='./.[hmpr]*_cache' --exclude='./.hypothesis' -cf - . | tar -xf - -C "$folder"
cd "$folder"
mkdir -p build
if [[ $lane == wheel ]]; then
    "$python" -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation -w build/dist . \
        >build/build.log 2>&1 || { tail -n 60 build/build.log; exit 1; }
    # the tests' dependencies are on the path, the package is not
    "$python" -m venv build/venv
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir build/tests-need
    for entry in "$packages"/*; do
        [[ ${entry##*/} == *uringloop* ]] || ln -s "$entry" build/tests-need/
    done
    python=$PWD/build/venv/bin/python
    export PYTHONPATH=$PWD/build/tests-need
    "$python" -m pip --disable-pip-version-check install -q --no-deps --no-index build/dist/*.whl
    rm -rf uringloop setup.py _uringloop_startup.py uringloop.pth
else
    export PYTHONPATH=$PWD
    "$python" setup.py build_ext --inplace >build/build.log 2>&1 || { tail -n 60 build/build.log; exit 1; }
fi
"$python" -c '
import importlib.util, sys
found = importlib.util.find_spec("uringloop").origin
sys.exit(None if found.startswith(sys.argv[1]) else f"the tests would run against {found}")' "$folder"
"$python" tests/drivers/setup.py build_ext --inplace >build/drivers.log 2>&1 || { tail -n 60 build/drivers.log; exit 1; }
if [[ $lane == sanitized ]]; then
    LD_PRELOAD=$(gcc -print-file-name=libasan.so)
    # CPython never frees some memory, and its own allocator would hide frees
    export LD_PRELOAD ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
fi
exec "$python" -m pytest -q --numprocesses "${PROCESSES:-auto}" --maxprocesses 8 -p no:cacheprovider "${@:-${tests[@]}}"
