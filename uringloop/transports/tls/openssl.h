/*
 * The few functions of OpenSSL that carry data, taken at run time from the library that Python's own _ssl module uses,
 * and our own BIO, which saves two copies and two memset() of OpenSSL's memory BIO.
 *
 * Nothing is linked and no header of OpenSSL is needed: with another copy of the library than _ssl's the session would
 * be garbage to it.  dlsym() on _ssl's handle searches _ssl's own dependencies.  Where that is impossible (_ssl
 * is built in, or linked statically and its symbols are hidden), ul_openssl_load fails, and the ssl module's methods
 * are used.
 *
 * The constants are part of OpenSSL's stable ABI.  The callbacks run with or without the GIL (the ssl module releases
 * it), always in the thread that uses the session, and touch no Python object.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
    UL_SSL_ERROR_WANT_READ = 2,
    UL_SSL_ERROR_ZERO_RETURN = 6,
    UL_BIO_TYPE_SOURCE_SINK = 0x400,
    UL_BIO_FLAGS_RETRY_READ = 0x1 | 0x8, /* BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY */
    UL_BIO_CTRL_PENDING = 10,
    UL_BIO_CTRL_FLUSH = 11,
};

static struct {
    unsigned long (*version_num)(void);
    int (*read_ex)(void *ssl, void *data, size_t n_bytes, size_t *count);
    int (*write_ex)(void *ssl, const void *data, size_t n_bytes, size_t *count);
    int (*get_error)(const void *ssl, int result);
    void *(*get_rbio)(const void *ssl);
    void *(*get_wbio)(const void *ssl);
    void (*set_bio)(void *ssl, void *rbio, void *wbio);
    unsigned long (*peek_error)(void);
    void (*clear_error)(void);
    int (*bio_get_new_index)(void);
    void *(*bio_meth_new)(int type, const char *name);
    int (*bio_meth_set_read)(void *method, int (*)(void *, char *, int));
    int (*bio_meth_set_write)(void *method, int (*)(void *, const char *, int));
    int (*bio_meth_set_ctrl)(void *method, long (*)(void *, int, long, void *));
    int (*bio_meth_set_destroy)(void *method, int (*)(void *));
    void *(*bio_new)(const void *method);
    void (*bio_set_data)(void *bio, void *data);
    void *(*bio_get_data)(void *bio);
    void (*bio_set_init)(void *bio, int init);
    void (*bio_set_flags)(void *bio, int flags);
    void (*bio_clear_flags)(void *bio, int flags);
} ul_openssl;

/*
 * Bytes on their way into or out of a session; belongs to the BIO, which frees it.
 *
 * Invariant: `data` points to n_bytes bytes, either inside of `buffer` or borrowed (a bytes object that the engine
 * holds).
 */
struct ul_pipe {
    const char *data;
    size_t n_bytes;
    char *buffer;      /* malloc'ed, or NULL */
    size_t capacity;
};

/* Append bytes to those that wait, in the pipe's own buffer.  Returns 0, or -1 without memory. */
static int ul_pipe_add(struct ul_pipe *pipe, const char *data, size_t n_bytes)
{
    int is_borrowed = pipe->buffer == NULL || pipe->data < pipe->buffer || pipe->data >= pipe->buffer + pipe->capacity;
    size_t wanted = pipe->n_bytes + n_bytes;

    if (!is_borrowed && pipe->n_bytes && pipe->data != pipe->buffer)
        memmove(pipe->buffer, pipe->data, pipe->n_bytes);
    if (wanted > pipe->capacity) {
        size_t capacity = wanted < 4096 ? 4096 : wanted + wanted / 2;
        char *buffer = realloc(pipe->buffer, capacity);

        if (buffer == NULL) {
            if (!is_borrowed)
                pipe->data = pipe->buffer;
            return -1;
        }
        pipe->buffer = buffer;
        pipe->capacity = capacity;
    }
    if (is_borrowed && pipe->n_bytes)
        memcpy(pipe->buffer, pipe->data, pipe->n_bytes);
    pipe->data = pipe->buffer;
    memcpy(pipe->buffer + pipe->n_bytes, data, n_bytes);
    pipe->n_bytes += n_bytes;
    return 0;
}

/* Drop the bytes that wait, and a buffer that became large. */
static void ul_pipe_reset(struct ul_pipe *pipe, size_t most_bytes)
{
    pipe->n_bytes = 0;
    pipe->data = NULL;
    if (pipe->capacity > most_bytes) {
        free(pipe->buffer);
        pipe->buffer = NULL;
        pipe->capacity = 0;
    }
}

static int ul_bio_read(void *bio, char *data, int n_bytes)
{
    struct ul_pipe *pipe = ul_openssl.bio_get_data(bio);
    size_t count = n_bytes > 0 ? (size_t)n_bytes : 0;

    ul_openssl.bio_clear_flags(bio, UL_BIO_FLAGS_RETRY_READ);
    if (pipe->n_bytes == 0) {
        ul_openssl.bio_set_flags(bio, UL_BIO_FLAGS_RETRY_READ);
        return -1;
    }
    if (count > pipe->n_bytes)
        count = pipe->n_bytes;
    memcpy(data, pipe->data, count);
    pipe->data += count;
    pipe->n_bytes -= count;
    return (int)count;
}

static int ul_bio_write(void *bio, const char *data, int n_bytes)
{
    struct ul_pipe *pipe = ul_openssl.bio_get_data(bio);

    if (n_bytes <= 0)
        return 0;
    return ul_pipe_add(pipe, data, (size_t)n_bytes) < 0 ? -1 : n_bytes;
}

static long ul_bio_ctrl(void *bio, int command, long argument, void *pointer)
{
    struct ul_pipe *pipe = ul_openssl.bio_get_data(bio);

    (void)argument;
    (void)pointer;
    if (command == UL_BIO_CTRL_FLUSH)
        return 1;
    return command == UL_BIO_CTRL_PENDING ? (long)pipe->n_bytes : 0;
}

static int ul_bio_destroy(void *bio)
{
    struct ul_pipe *pipe = ul_openssl.bio_get_data(bio);

    if (pipe != NULL) {
        free(pipe->buffer);
        free(pipe);
        ul_openssl.bio_set_data(bio, NULL);
    }
    return 1;
}

static void *ul_bio_method;

/* Fill ul_openssl from the shared object `path`, which is loaded already.  Returns 0, or -1 if anything is missing. */
static int ul_openssl_find(const char *path)
{
#define WANTED(symbol, member) {symbol, offsetof(__typeof__(ul_openssl), member)}
    static const struct {
        const char *name;
        size_t offset;
    } wanted[] = {
        WANTED("OpenSSL_version_num", version_num),
        WANTED("SSL_read_ex", read_ex),
        WANTED("SSL_write_ex", write_ex),
        WANTED("SSL_get_error", get_error),
        WANTED("SSL_get_rbio", get_rbio),
        WANTED("SSL_get_wbio", get_wbio),
        WANTED("SSL_set_bio", set_bio),
        WANTED("ERR_peek_error", peek_error),
        WANTED("ERR_clear_error", clear_error),
        WANTED("BIO_get_new_index", bio_get_new_index),
        WANTED("BIO_meth_new", bio_meth_new),
        WANTED("BIO_meth_set_read", bio_meth_set_read),
        WANTED("BIO_meth_set_write", bio_meth_set_write),
        WANTED("BIO_meth_set_ctrl", bio_meth_set_ctrl),
        WANTED("BIO_meth_set_destroy", bio_meth_set_destroy),
        WANTED("BIO_new", bio_new),
        WANTED("BIO_set_data", bio_set_data),
        WANTED("BIO_get_data", bio_get_data),
        WANTED("BIO_set_init", bio_set_init),
        WANTED("BIO_set_flags", bio_set_flags),
        WANTED("BIO_clear_flags", bio_clear_flags),
    };
#undef WANTED
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD); /* never closed: an extension module is never unloaded */

    if (handle == NULL)
        return -1;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(handle, wanted[i].name);

        if (found == NULL)
            return -1;
        *(void **)((char *)&ul_openssl + wanted[i].offset) = found;
    }
    ul_bio_method = ul_openssl.bio_meth_new(ul_openssl.bio_get_new_index() | UL_BIO_TYPE_SOURCE_SINK, "uringloop");
    if (ul_bio_method == NULL || !ul_openssl.bio_meth_set_read(ul_bio_method, ul_bio_read)
        || !ul_openssl.bio_meth_set_write(ul_bio_method, ul_bio_write)
        || !ul_openssl.bio_meth_set_ctrl(ul_bio_method, ul_bio_ctrl)
        || !ul_openssl.bio_meth_set_destroy(ul_bio_method, ul_bio_destroy))
        return -1;
    return 0;
}

/* The same once for all interpreters, which have one OpenSSL. */
static int ul_openssl_load(const char *path)
{
    static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
    static int result = 1;

    pthread_mutex_lock(&loading);
    if (result > 0)
        result = ul_openssl_find(path);
    pthread_mutex_unlock(&loading);
    return result;
}

/* A BIO with an empty pipe, or NULL without memory. */
static void *ul_bio_make(struct ul_pipe **made)
{
    struct ul_pipe *pipe = calloc(1, sizeof *pipe);
    void *bio = pipe ? ul_openssl.bio_new(ul_bio_method) : NULL;

    if (bio == NULL) {
        free(pipe);
        return NULL;
    }
    ul_openssl.bio_set_data(bio, pipe);
    ul_openssl.bio_set_init(bio, 1);
    *made = pipe;
    return bio;
}

/* Give a session two of our BIOs in place of those that it has.  Returns 0, or -1 without memory. */
static int ul_take_over(void *ssl, struct ul_pipe **incoming, struct ul_pipe **outgoing)
{
    void *rbio = ul_bio_make(incoming);
    void *wbio = rbio ? ul_bio_make(outgoing) : NULL;

    if (wbio == NULL)
        return -1; /* leaks rbio: memory has run out */
    ul_openssl.set_bio(ssl, rbio, wbio); /* which owns them from now on */
    return 0;
}

/* The pointer in the n-th field behind a Python object's header. */
static void *ul_field(void *object, size_t n)
{
    return ((void **)((char *)object + sizeof(PyObject)))[n];
}
