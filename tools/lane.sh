#!/usr/bin/env bash
# Run the tests against another build of the package, in a copy of the tree, with the packages of $VENV:
#
#     tools/lane.sh LANE [pytest arguments]
#
#   debug             assertions compiled in
#   sanitized         AddressSanitizer and UBSan, with assertions: tests of memory that the kernel reads and writes
#   leaks             AddressSanitizer's LeakSanitizer: repeated operations
#   without-liburing  only epoll and poll
#   wheel             a wheel in a virtual environment of its own, without the package's source
#   sub-interpreters  what only a newer Python has, by $PYTHON_NEWER or the newest that tools/newer_python.sh finds
#   debug-python      by $PYTHON_DEBUG, a Python with Py_DEBUG (Debian: python3-dbg), and with assertions
#   free-threaded     without a GIL, by $PYTHON_FREE_THREADED, for which it makes a virtual environment
#   fuzz              both sanitizers and libFuzzer's counters, by clang: the arguments are those of tests/fuzz
#   thread-sanitizer  the same under ThreadSanitizer, by a Python that was compiled with it: loops in threads that call
#                     each other, for $SECONDS_EACH seconds on each monitor
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
    leaks)
        export URINGLOOP_DEBUG=1 URINGLOOP_SANITIZE=1
        tests=(tests/unit/test_reference_counts.py --monitor io_uring --monitor epoll)
        ;;
    fuzz) export CC=${CLANG:-clang} URINGLOOP_DEBUG=1 URINGLOOP_SANITIZE=fuzzer ;;
    without-liburing)
        export URINGLOOP_WITHOUT_LIBURING=1
        tests=(tests/unit tests/behaviour --monitor epoll --monitor poll)
        ;;
    wheel) tests=(tests/unit tests/raw tests/behaviour --monitor io_uring) ;;
    sub-interpreters)
        tests=(tests/unit/group tests/repository/test_sub_interpreters.py tests/behaviour/loop --monitor uringloop)
        ;;
    debug-python)
        export URINGLOOP_DEBUG=1
        # Without tests in which the interpreter's own assertions fail when memory is short.
        tests=(tests/unit tests/raw tests/behaviour --monitor io_uring --monitor epoll
            --ignore tests/unit/test_out_of_memory.py --ignore tests/raw/test_out_of_memory.py)
        # The filters of a Python without Py_DEBUG, for scripts whose output is compared.
        PYTHONWARNINGS=default::DeprecationWarning:__main__,ignore::DeprecationWarning
        PYTHONWARNINGS+=,ignore::PendingDeprecationWarning,ignore::ImportWarning,ignore::ResourceWarning
        export PYTHONWARNINGS
        ;;
    free-threaded)
        tests=(tests/unit tests/raw tests/behaviour tests/stress --monitor uringloop)
        # Warnings that are caught count for all contexts, as with a GIL: a finalizer may run in any.
        export PYTHON_GIL=0 PYTHON_CONTEXT_AWARE_WARNINGS=0
        ;;
    thread-sanitizer) export PYTHON_GIL=0 URINGLOOP_SANITIZE=thread ;;
    *)
        echo "unknown lane: $lane" >&2
        exit 2
        ;;
esac

# Ends this script.
leaks() {
    # Reports go to files, one for each process, so that scripts of tests print what they always do. Stacks that are
    # found without frame pointers are slow, and without them no function of another extension has a name.
    LD_PRELOAD=$(gcc -print-file-name=libasan.so)
    export LD_PRELOAD PYTHONMALLOC=malloc
    export ASAN_OPTIONS=detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=8:log_path=$PWD/build/leaks
    export LSAN_OPTIONS=suppressions=$PWD/tests/support/leaks.txt:exitcode=0:print_suppressions=0
    status=0
    "$python" -m pytest -q -n 0 -p no:cacheprovider "${@:-${tests[@]}}" || status=1
    unset LD_PRELOAD
    for report in build/leaks.*; do
        [[ ! -e $report ]] || { cat "$report"; status=1; }
    done
    exit $status
}

# LANE_BUILD=sanitized: by that lane's build, which is there.
if [[ $lane == leaks && -n ${LANE_BUILD:-} ]]; then
    cd "build/lanes/$LANE_BUILD"
    export PYTHONPATH=$PWD
    leaks "$@"
fi

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
elif [[ $lane == @(free-threaded|thread-sanitizer|sub-interpreters|debug-python) ]]; then
    if [[ $lane == debug-python ]]; then
        other=${PYTHON_DEBUG:-$(command -v python3-dbg python3.11-dbg python3.13-dbg | head -n 1)}
        : "${other:?a Python with Py_DEBUG is missing: PYTHON_DEBUG=, or apt-get install python3-dbg}"
    elif [[ $lane == sub-interpreters ]]; then
        other=${PYTHON_NEWER:-$(tools/newer_python.sh)}
    else
        other=${PYTHON_FREE_THREADED:?make python-free-threaded}
    fi
    version=$("$other" -c 'import sys; print("%d.%d%s" % (*sys.version_info[:2], sys.abiflags))')
    [[ $lane != thread-sanitizer ]] || version+=-sanitized
    python=$OLDPWD/build/other-pythons/venv-$version/bin/python
    [[ -x $python ]] || "$other" -m venv "${python%/bin/python}"
    # cffi has no version for 3.13t; wheels, where the newest version of a package cannot be compiled for it
    for one in build $([[ $lane == thread-sanitizer ]] || echo test); do
        "$python" tools/requirements.py $one | grep -v "$([[ $version == 3.13t ]] && echo '^cffi' || echo '^$')"
    done >build/requirements.txt
    "$python" -m pip --disable-pip-version-check install -q --prefer-binary -r build/requirements.txt \
        >build/install.log 2>&1 || { tail -n 60 build/install.log; exit 1; }
    if [[ $lane == thread-sanitizer ]]; then
        # Cython by the other Python: under ThreadSanitizer it takes half an hour
        URINGLOOP_SANITIZE= "$OLDPWD/${VENV:-.venv}/bin/python" setup.py build_ext --inplace >build/cython.log 2>&1 \
            || { tail -n 60 build/cython.log; exit 1; }
        export PYTHONPATH=$PWD
        "$python" setup.py build_ext --inplace >build/build.log 2>&1 || { tail -n 60 build/build.log; exit 1; }
    else
        "$python" -m pip --disable-pip-version-check install -v --no-deps --no-build-isolation --editable . \
            >build/build.log 2>&1 || { tail -n 60 build/build.log; exit 1; }
    fi
else
    export PYTHONPATH=$PWD
    "$python" setup.py build_ext --inplace >build/build.log 2>&1 || { tail -n 60 build/build.log; exit 1; }
fi
"$python" -c '
import importlib.util, sys
found = importlib.util.find_spec("uringloop").origin
sys.exit(None if found.startswith(sys.argv[1]) else f"the tests would run against {found}")' "$folder"
if [[ $lane == thread-sanitizer ]]; then
    status=0
    export TSAN_OPTIONS="history_size=4 log_path=$PWD/build/tsan"
    # CPython's own: what its tests run with, and its list of audit hooks, which may become longer at any time
    cat "$(dirname "$PYTHON_FREE_THREADED")/../suppressions_free_threading.txt" >build/known.txt 2>/dev/null || true
    echo "race_top:add_audit_hook_entry_unlocked" >>build/known.txt
    TSAN_OPTIONS+=" suppressions=$PWD/build/known.txt"
    for monitor in io_uring epoll poll; do
        for misuse in "" --misuse; do
            echo "$monitor $misuse"
            "$python" -m tests.stress.crossing_threads --monitor $monitor --threads 4 --seconds "${SECONDS_EACH:-30}" \
                --seed 3 $misuse >build/stress.log 2>&1 || { status=1; tail -n 20 build/stress.log; }
        done
    done
    grep -h '^SUMMARY' build/tsan.* 2>/dev/null | sort | uniq -c | sort -rn || true
    exit $status
fi
"$python" tests/drivers/setup.py build_ext --inplace >build/drivers.log 2>&1 || { tail -n 60 build/drivers.log; exit 1; }
if [[ $lane == fuzz ]]; then
    LD_PRELOAD=$("$python" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
    # CPython never frees some memory, and its own allocator would hide frees
    export LD_PRELOAD PYTHONMALLOC=malloc
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_abort=1
    exec "$python" -m tests.fuzz --corpus "$OLDPWD/build/fuzz" "$@"
fi
[[ $lane != leaks ]] || leaks "$@"
if [[ $lane == sanitized ]]; then
    LD_PRELOAD=$(gcc -print-file-name=libasan.so)
    # CPython never frees some memory, and its own allocator would hide frees
    export LD_PRELOAD ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
fi
exec "$python" -m pytest -q --numprocesses "${PROCESSES:-auto}" --maxprocesses 8 -p no:cacheprovider "${@:-${tests[@]}}"
