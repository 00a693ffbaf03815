/*
 * TLS for the load client's modes echo and open, included by loadgen.c if OpenSSL's headers are installed.
 *
 * It uses memory BIOs, so that both ways of moving bytes (epoll and io_uring) need no change: ciphertext replaces the
 * pattern.  A message is encrypted right before it is sent, one at a time per connection.
 *
 * During the warm-up received data are decrypted and compared.  From the measured window on the client only reads the
 * lengths in the record headers: the sum of the payloads gives the number of messages.  Otherwise the client would do as much
 * cryptography as the server and be no faster.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>

#define TLS_HEADER_BYTES 5
#define TLS_APPLICATION_DATA 23
#define TLS_OVERHEAD_BYTES 17 /* TLS 1.3: the content type and the tag */

struct tls {
    SSL *ssl;
    BIO *incoming, *outgoing;
    char *to_send;                  /* ciphertext of the message in flight; owned by `outgoing` */
    long n_to_send;
    unsigned char header[TLS_HEADER_BYTES];
    size_t n_header, n_body;        /* of the record being received; n_body: its missing bytes */
    size_t n_counted;               /* plaintext in records whose header was read and that are not decrypted yet */
};

static SSL_CTX *tls_context;

static void tls_die(const char *what)
{
    errno = 0;
    ERR_print_errors_fp(stderr);
    die("TLS: %s", what);
}

/* A session without a transport. */
static void tls_new(struct connection *c)
{
    struct tls *tls = calloc(1, sizeof *tls);

    if (!tls_context && !(tls_context = SSL_CTX_new(TLS_client_method())))
        tls_die("no context");
    SSL_CTX_set_min_proto_version(tls_context, TLS1_3_VERSION);
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_NONE, NULL); /* a benchmark has no secrets */
    if (!tls || !(tls->ssl = SSL_new(tls_context)))
        tls_die("no session");
    c->tls = tls;
}

static void tls_on_memory(struct connection *c)
{
    struct tls *tls = c->tls;

    tls->incoming = BIO_new(BIO_s_mem());
    tls->outgoing = BIO_new(BIO_s_mem());
    if (!tls->incoming || !tls->outgoing)
        tls_die("no BIO");
    SSL_set_bio(tls->ssl, tls->incoming, tls->outgoing);
}

static void tls_free(struct connection *c)
{
    SSL_free(c->tls->ssl);
    free(c->tls);
    c->tls = NULL;
}

/* On a connected, blocking socket; afterwards the session is on memory BIOs. */
static void tls_connect(struct connection *c)
{
    tls_new(c);
    if (!SSL_set_fd(c->tls->ssl, c->fd))
        tls_die("no session");
    if (SSL_connect(c->tls->ssl) != 1)
        tls_die("handshake");
    tls_on_memory(c);
}

/* What to send of the current message, encrypting it first if it is a new one. */
static const char *tls_piece(struct connection *c, size_t *n)
{
    struct tls *tls = c->tls;

    if (!tls->n_to_send) {
        (void)BIO_reset(tls->outgoing);
        if (SSL_write(tls->ssl, pattern, (int)opt.size_bytes) != (int)opt.size_bytes)
            tls_die("write");
        tls->n_to_send = BIO_get_mem_data(tls->outgoing, &tls->to_send);
    }
    *n = (size_t)tls->n_to_send;
    return tls->to_send;
}

static void tls_took(struct connection *c, size_t n)
{
    c->tls->to_send += n;
    c->tls->n_to_send -= (long)n;
    if (!c->tls->n_to_send)
        c->to_send -= opt.size_bytes;
}

/* Counts the plaintext of the records that begin in these n bytes. */
static void tls_count(struct tls *tls, const char *data, size_t n)
{
    while (n) {
        size_t length;
        if (tls->n_body) {
            length = tls->n_body < n ? tls->n_body : n;
            tls->n_body -= length;
        } else {
            length = TLS_HEADER_BYTES - tls->n_header < n ? TLS_HEADER_BYTES - tls->n_header : n;
            memcpy(tls->header + tls->n_header, data, length);
            tls->n_header += length;
            if (tls->n_header == TLS_HEADER_BYTES) {
                tls->n_header = 0;
                tls->n_body = (size_t)tls->header[3] << 8 | tls->header[4];
                if (tls->header[0] != TLS_APPLICATION_DATA || tls->n_body < TLS_OVERHEAD_BYTES)
                    tls_die("the server sent a record that is not data");
                tls->n_counted += tls->n_body - TLS_OVERHEAD_BYTES;
            }
        }
        data += length;
        n -= length;
    }
}

/* Takes n received bytes of ciphertext; returns how many messages they completed. */
static unsigned tls_take_bytes(struct connection *c, const char *data, size_t n)
{
    static char plain[16384];
    struct tls *tls = c->tls;
    unsigned n_complete = 0;
    int n_plain;

    tls_count(tls, data, n);
    if (has_begun) { /* also after the window, where the open mode waits for the last answers */
        n = tls->n_counted;
        tls->n_counted = 0;
        return take_bytes(c, NULL, n);
    }
    if (BIO_write(tls->incoming, data, (int)n) != (int)n)
        tls_die("no memory");
    while ((n_plain = SSL_read(tls->ssl, plain, sizeof plain)) > 0) {
        tls->n_counted -= (size_t)n_plain;
        n_complete += take_bytes(c, plain, (size_t)n_plain);
    }
    if (SSL_get_error(tls->ssl, n_plain) != SSL_ERROR_WANT_READ)
        tls_die("read");
    if (!tls->n_body && !tls->n_header)
        tls->n_counted = 0; /* the rest were session tickets */
    return n_complete;
}
