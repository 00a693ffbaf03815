/*
 * The few functions of OpenSSL that carry data, taken at run time from the library that Python's own _ssl module uses.
 *
 * Nothing is linked and no header of OpenSSL is needed: with another copy of the library than _ssl's the session would
 * be garbage to it.  dlsym() on _ssl's handle searches what _ssl itself depends on.  Where that is not to be had (_ssl
 * is built in, or linked statically and its symbols are hidden), ul_openssl_load says no, and the ssl module's methods
 * do the work.
 */
#include <dlfcn.h>
#include <stddef.h>

enum {
    UL_SSL_ERROR_WANT_READ = 2,   /* SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN: part of OpenSSL's stable ABI */
    UL_SSL_ERROR_ZERO_RETURN = 6,
};

static struct {
    unsigned long (*version_num)(void);
    int (*read_ex)(void *ssl, void *data, size_t n_bytes, size_t *count);
    int (*write_ex)(void *ssl, const void *data, size_t n_bytes, size_t *count);
    int (*get_error)(const void *ssl, int result);
    void *(*get_rbio)(const void *ssl);
    void *(*get_wbio)(const void *ssl);
    int (*bio_read)(void *bio, void *data, int n_bytes);
    int (*bio_write)(void *bio, const void *data, int n_bytes);
    size_t (*bio_pending)(void *bio);
    unsigned long (*peek_error)(void);
    void (*clear_error)(void);
} ul_openssl;

/* Fills ul_openssl from the shared object `path`, which is loaded already.  Returns 0, or -1 when anything is missing. */
static int ul_openssl_load(const char *path)
{
    static const struct {
        const char *name;
        size_t offset;
    } wanted[] = {
        {"OpenSSL_version_num", offsetof(__typeof__(ul_openssl), version_num)},
        {"SSL_read_ex", offsetof(__typeof__(ul_openssl), read_ex)},
        {"SSL_write_ex", offsetof(__typeof__(ul_openssl), write_ex)},
        {"SSL_get_error", offsetof(__typeof__(ul_openssl), get_error)},
        {"SSL_get_rbio", offsetof(__typeof__(ul_openssl), get_rbio)},
        {"SSL_get_wbio", offsetof(__typeof__(ul_openssl), get_wbio)},
        {"BIO_read", offsetof(__typeof__(ul_openssl), bio_read)},
        {"BIO_write", offsetof(__typeof__(ul_openssl), bio_write)},
        {"BIO_ctrl_pending", offsetof(__typeof__(ul_openssl), bio_pending)},
        {"ERR_peek_error", offsetof(__typeof__(ul_openssl), peek_error)},
        {"ERR_clear_error", offsetof(__typeof__(ul_openssl), clear_error)},
    };
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD); /* never closed: an extension module stays for good */

    if (handle == NULL)
        return -1;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(handle, wanted[i].name);

        if (found == NULL)
            return -1;
        *(void **)((char *)&ul_openssl + wanted[i].offset) = found;
    }
    return 0;
}

/* The pointer that a Python object has as its n-th field behind its header. */
static void *ul_field(void *object, size_t n)
{
    return ((void **)((char *)object + sizeof(PyObject)))[n];
}
