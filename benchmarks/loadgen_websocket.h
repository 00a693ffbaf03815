/*
 * WebSocket messages (RFC 6455) for the load client's modes echo and open. Part of loadgen.c.
 *
 * Each connection is upgraded when it is made. A message is one binary frame with a 16-bit length; the client masks
 * its frames, as it must, the server does not: so an answer is four bytes shorter than its message. No extension is
 * offered, so nothing is compressed.
 */
#define WEBSOCKET_LEAST 126u   /* shorter and longer payloads have other headers */
#define WEBSOCKET_MOST 65535u
#define WEBSOCKET_HEADER 4     /* of an answer */
#define WEBSOCKET_MASK 4       /* follows the header in a message */

/* Until here size_bytes is that of the payload. */
static void websocket_sizes(void)
{
    if (opt.size_bytes < WEBSOCKET_LEAST || opt.size_bytes > WEBSOCKET_MOST)
        die("WebSocket messages have %u to %u bytes here", WEBSOCKET_LEAST, WEBSOCKET_MOST);
    opt.answer_bytes = opt.size_bytes + WEBSOCKET_HEADER;
    opt.size_bytes += WEBSOCKET_HEADER + WEBSOCKET_MASK;
}

/* Turns the pattern into frames; returns those of the answer. */
static char *websocket_frames(void)
{
    static const unsigned char mask[WEBSOCKET_MASK] = {0x37, 0xfa, 0x21, 0x3d};
    size_t n_payload = opt.answer_bytes - WEBSOCKET_HEADER;
    char *frames = malloc(2 * opt.answer_bytes);

    if (!frames)
        die("set-up");
    for (int period = 0; period < 2; period++) {
        unsigned char *sent = (unsigned char *)pattern + (size_t)period * opt.size_bytes;
        unsigned char *expected = (unsigned char *)frames + (size_t)period * opt.answer_bytes;

        expected[0] = 0x82; /* the whole of a binary message */
        expected[1] = 126;  /* a 16-bit length follows */
        expected[2] = (unsigned char)(n_payload >> 8);
        expected[3] = (unsigned char)n_payload;
        memcpy(expected + WEBSOCKET_HEADER, sent + WEBSOCKET_HEADER + WEBSOCKET_MASK, n_payload);
        memcpy(sent, expected, WEBSOCKET_HEADER);
        sent[1] |= 0x80; /* masked */
        memcpy(sent + WEBSOCKET_HEADER, mask, WEBSOCKET_MASK);
        for (size_t i = 0; i < n_payload; i++)
            sent[WEBSOCKET_HEADER + WEBSOCKET_MASK + i] ^= mask[i % WEBSOCKET_MASK];
    }
    return frames;
}

/* The upgrade, with the example of the RFC; the server sends nothing else before it gets a message. */
static void websocket_connect(struct connection *c)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    char text[4096] = "";
    size_t n = 0;

    if (send(c->fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1)
        die("send of the upgrade");
    while (!strstr(text, "\r\n\r\n")) {
        ssize_t more = recv(c->fd, text + n, sizeof text - 1 - n, 0);
        if (more <= 0) {
            errno = more ? errno : 0;
            die("the server did not finish the upgrade");
        }
        n += (size_t)more;
        text[n] = 0;
    }
    errno = 0;
    if (strncmp(text, "HTTP/1.1 101 ", 13) || !strstr(text, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
        die("the server refused the upgrade: %.60s", text);
}
