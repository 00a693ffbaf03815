/*
 * The churn mode over TLS, included by loadgen.c if OpenSSL's headers are installed: connect, handshake, echo one
 * message, close_notify and shutdown, wait for EOF, close, repeat. No session is ever resumed.
 *
 * What OpenSSL writes goes through `outgoing` to the socket. All that is received is decrypted: it is one message.
 */
static void handshake_flush(struct connection *c)
{
    char *data;
    long n;

    while ((n = BIO_get_mem_data(c->tls->outgoing, &data)) > 0) {
        static char taken[2 * 16384];
        ssize_t sent = send(c->fd, data, (size_t)n < sizeof taken ? (size_t)n : sizeof taken, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno != EAGAIN)
                die("send");
            want_out(c, 1);
            return;
        }
        BIO_read(c->tls->outgoing, taken, (int)sent);
    }
    want_out(c, 0);
    if (c->state == AWAITING_EOF && shutdown(c->fd, SHUT_WR) < 0)
        die("shutdown");
}

static void handshake_read(struct connection *c)
{
    char plain[16384];
    int n;

    while ((n = SSL_read(c->tls->ssl, plain, sizeof plain)) > 0)
        if (take_bytes(c, plain, (size_t)n)) {
            SSL_shutdown(c->tls->ssl);
            c->state = AWAITING_EOF;
            return;
        }
    if (SSL_get_error(c->tls->ssl, n) != SSL_ERROR_WANT_READ)
        tls_die("read");
}

/* Goes on with what was received: the handshake, then the message. */
static void handshake_advance(struct connection *c)
{
    if (c->state == HANDSHAKING) {
        int done = SSL_connect(c->tls->ssl);

        if (done != 1 && SSL_get_error(c->tls->ssl, done) != SSL_ERROR_WANT_READ)
            tls_die("handshake");
        if (done == 1) {
            if (SSL_write(c->tls->ssl, pattern, (int)opt.size_bytes) != (int)opt.size_bytes)
                tls_die("write");
            c->state = ECHOING;
        }
    }
    if (c->state == ECHOING)
        handshake_read(c);
    handshake_flush(c);
}

static void handshake_event(struct connection *c, uint32_t events)
{
    ssize_t n;

    if (c->state == CONNECTING) {
        churn_connected(c);
        tls_new(c);
        tls_on_memory(c);
        SSL_set_connect_state(c->tls->ssl);
        c->state = HANDSHAKING;
        handshake_advance(c);
    } else if (events & EPOLLOUT) {
        handshake_flush(c);
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || (n = receive(c)) < 0)
        return;
    if (n == 0) {
        tls_free(c);
        churn_ended(c);
    } else if (c->state != AWAITING_EOF) { /* then it is the server's close_notify */
        if (BIO_write(c->tls->incoming, receive_buffer, (int)n) != (int)n)
            tls_die("no memory");
        handshake_advance(c);
    }
}
