"""An HTTP server in a thread of its own for programs that test a client; standard library only."""

import contextlib
import http.server
import json
import threading

from inside import CHUNKS


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Not logged."""

    def chunked(self, kind, pieces):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self):
        self.chunked("application/octet-stream", CHUNKS)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/chat/completions"):
            self.answer_chat(json.loads(body))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_chat(self, request):
        """OpenAI's API: repeats the last message, whole, or a word at a time as server-sent events."""
        text = request["messages"][-1]["content"]
        shared = {"id": "1", "created": 0, "model": request["model"]}
        if not request.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            data = json.dumps({**shared, "object": "chat.completion", "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        events = []
        for word in text.split():
            choice = {
                "index": 0,
                "finish_reason": None,
                "delta": {"role": "assistant", "content": word + " "},
            }
            event = {**shared, "object": "chat.completion.chunk", "choices": [choice]}
            events.append(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.chunked("text/event-stream", [*events, b"data: [DONE]\n\n"])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the class's 5, clients that connect all at once are reset


@contextlib.contextmanager
def serving():
    """The port of a running server."""
    server = Server(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
