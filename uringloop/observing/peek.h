/*
 * The stack of another thread, read without the GIL while that thread is in a call or an operation that holds it.
 *
 * Memory that is not there any more must not end the process: everything is read by process_vm_readv(2), from Linux 3.2
 * on, which returns EFAULT.  Memory that changed meanwhile must not be believed: the stack is read twice, and counts if
 * both times are equal, which they are while the thread executes one call or operation.  Where the system call is
 * refused, or the thread runs on, the caller reads the stack with the GIL instead.
 *
 * The layouts are those of the headers of the Python that this is compiled for: 3.11 to 3.14.  The table of lines is
 * described in CPython's Objects/locations.md (InternalDocs/code_objects.md since 3.14).
 */
#ifndef URINGLOOP_PEEK_H
#define URINGLOOP_PEEK_H
#include <Python.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { UL_MOST_FRAMES = 64, UL_MOST_NAME = 256, UL_MOST_LINE_TABLE = 64 * 1024 };

typedef struct {
    int kind, length;             /* as PyUnicode_FromKindAndData() takes them */
    char data[UL_MOST_NAME];
} ul_name;

typedef struct {
    const void *frame, *code, *instruction;
    int line;
    ul_name file, function;
} ul_peeked;

typedef struct {
    int count;                    /* of frames, the innermost first; 0: not known */
    ul_peeked frames[UL_MOST_FRAMES];
} ul_stack;

/* What is needed while it is read. */
typedef struct {
    ul_stack again;
    unsigned char line_table[UL_MOST_LINE_TABLE];
} ul_scratch;

#if PY_VERSION_HEX < 0x030f0000
#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#if PY_VERSION_HEX < 0x030e0000
#include "internal/pycore_frame.h"
#else
#include "internal/pycore_interpframe_structs.h"
#endif

/* Returns whether it is there. */
static int ul_copy(const void *at, void *into, size_t n_bytes)
{
    struct iovec local = {into, n_bytes}, remote = {(void *)at, n_bytes};

    return at != NULL && process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)n_bytes;
}

static int ul_peek_name(const void *at, ul_name *into)
{
    PyASCIIObject header;
    const char *data = (const char *)at;

    if (!ul_copy(at, &header, sizeof header) || !header.state.compact || header.length < 0)
        return 0;
    data += header.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject);
    into->kind = header.state.kind;
    into->length = header.length;
    if (into->kind < 1 || into->kind > 4)
        return 0;
    if (into->length > UL_MOST_NAME / into->kind) {  /* its end says more than its beginning */
        data += (into->length - UL_MOST_NAME / into->kind) * into->kind;
        into->length = UL_MOST_NAME / into->kind;
    }
    return into->length == 0 || ul_copy(data, into->data, (size_t)(into->length * into->kind));
}

/* A number of the table of lines: six bits per byte, the least first. */
static unsigned ul_varint(const unsigned char *table, int size, int *at)
{
    unsigned value = 0, shift = 0;

    while (*at < size && shift < 30) {
        value |= (table[*at] & 63u) << shift;
        if (!(table[(*at)++] & 64))
            break;
        shift += 6;
    }
    return value;
}

/* The line of an instruction, or 0. */
static int ul_line_of(const unsigned char *table, int size, int line, int instruction)
{
    int at = 0, end = 0, found = 0;

    while (at < size) {
        int form = (table[at] >> 3) & 15;
        int is_known = form != 15;
        unsigned delta;

        end += (table[at++] & 7) + 1;
        if (form == 13 || form == 14) {
            delta = ul_varint(table, size, &at);
            line += delta & 1 ? -(int)(delta >> 1) : (int)(delta >> 1);
        } else if (form >= 10 && form <= 12) {
            line += form - 10;
        }
        while (at < size && !(table[at] & 0x80))  /* columns */
            at++;
        if (is_known)
            found = line;
        if (instruction < end)
            return is_known ? line : found;
    }
    return 0;
}

static int ul_peek_line(ul_scratch *scratch, const PyCodeObject *code, long instruction)
{
    PyVarObject header;

    if (instruction < 0)
        return code->co_firstlineno;
    if (instruction >= Py_SIZE(code) || !ul_copy(code->co_linetable, &header, sizeof header)
        || header.ob_size < 0 || header.ob_size > UL_MOST_LINE_TABLE
        || !ul_copy((const char *)code->co_linetable + offsetof(PyBytesObject, ob_sval), scratch->line_table,
                    (size_t)header.ob_size))
        return 0;
    return ul_line_of(scratch->line_table, (int)header.ob_size, code->co_firstlineno, (int)instruction);
}

/* The frame above which there is none, or `caller`; NULL: not readable. */
static const void *ul_innermost(const PyThreadState *thread_state)
{
    PyThreadState state;

    if (!ul_copy(thread_state, &state, sizeof state))
        return NULL;
#if PY_VERSION_HEX < 0x030d0000
    _PyCFrame cframe;
    return ul_copy(state.cframe, &cframe, sizeof cframe) ? cframe.current_frame : NULL;
#else
    return state.current_frame;
#endif
}

/* The stack down to the frame whose object is `caller`; returns whether that was found. */
static int ul_peek_once(const PyThreadState *thread_state, const void *caller, ul_stack *stack, ul_scratch *scratch)
{
    const void *at = ul_innermost(thread_state);
    _PyInterpreterFrame frame;
    PyCodeObject code;
    int n_seen;

    stack->count = 0;
    for (n_seen = 0; at != NULL && n_seen < 2000; n_seen++, at = frame.previous) {
        ul_peeked *one = &stack->frames[stack->count];
        long instruction;

        if (!ul_copy(at, &frame, offsetof(_PyInterpreterFrame, localsplus)))
            return 0;
        if ((const void *)frame.frame_obj == caller)
            return 1;
        if (frame.owner > 2 || stack->count == UL_MOST_FRAMES)  /* a frame of C */
            continue;
        one->frame = at;
#if PY_VERSION_HEX < 0x030d0000
        one->code = frame.f_code;
        one->instruction = frame.prev_instr;
#elif PY_VERSION_HEX < 0x030e0000
        one->code = frame.f_executable;
        one->instruction = frame.instr_ptr;
#else
        one->code = (const void *)(frame.f_executable.bits & ~(uintptr_t)3);
        one->instruction = frame.instr_ptr;
#endif
        if (!ul_copy(one->code, &code, sizeof code) || Py_TYPE(&code) != &PyCode_Type)
            return 0;
        instruction = ((const char *)one->instruction - (const char *)one->code
                       - (long)offsetof(PyCodeObject, co_code_adaptive)) / (long)sizeof(_Py_CODEUNIT);
        one->line = ul_peek_line(scratch, &code, instruction);
        if (one->line <= 0 || !ul_peek_name(code.co_filename, &one->file)
            || !ul_peek_name(code.co_qualname, &one->function))
            return 0;
        stack->count++;
    }
    return 0;
}

/* Read the stack; its count is 0 where it is not known. */
static void ul_peek_stack(const PyThreadState *thread_state, const void *caller, ul_stack *stack, ul_scratch *scratch)
{
    const ul_stack *again = &scratch->again;
    int at, is_same;

    is_same = caller != NULL && ul_peek_once(thread_state, caller, &scratch->again, scratch)
        && ul_peek_once(thread_state, caller, stack, scratch) && stack->count == again->count;
    for (at = 0; is_same && at < stack->count; at++)
        is_same = stack->frames[at].frame == again->frames[at].frame
            && stack->frames[at].code == again->frames[at].code
            && stack->frames[at].instruction == again->frames[at].instruction;
    if (!is_same)
        stack->count = 0;
}
#else
static void ul_peek_stack(const PyThreadState *thread_state, const void *caller, ul_stack *stack, ul_scratch *scratch)
{
    (void)thread_state, (void)caller, (void)scratch;
    stack->count = 0;
}
#endif
#endif
