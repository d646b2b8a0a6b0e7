"""A proxy in front of a Redis that lies about lengths, or changes a key between its lookup and its load."""
import re, socket, threading

import redis

from server import free_port

GET = re.compile(rb"\*2\r\n\$3\r\nGET\r\n\$\d+\r\n([^\r]+)\r\n")


class Proxy:
    """Passes bytes to a server and back. `mode` says what it does on the way, to every second GET or reply:

    "" nothing; "lie" (a bulk's header is off by one, its bytes are not), "delete" (the key goes before its GET does),
    "grow" (its value is one byte longer by then).
    """

    def __init__(self, port, object_bytes):
        self.behind, self.mode, self.done, self.port = port, "", 0, free_port()
        self.header = f"${object_bytes}\r\n".encode()
        self.admin = redis.Redis(port=port, socket_timeout=5, retry=None)
        self.turn = threading.Lock()
        listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            front, _ = listener.accept()
            try:
                back = socket.create_connection(("127.0.0.1", self.behind), timeout=5)
            except OSError:
                front.close()  # nobody is there: no more is to be had from a port without a server
                continue
            back.settimeout(None)
            for source, target, change in ((front, back, self.asked), (back, front, self.answered)):
                threading.Thread(target=self.pump, args=(source, target, change), daemon=True).start()

    @staticmethod
    def pump(source, target, change):
        try:
            while data := source.recv(2**18):
                target.sendall(change(data))
        except (OSError, redis.RedisError):
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def asked(self, data):
        if self.mode in ("delete", "grow"):
            for name in GET.findall(data):
                with self.turn:
                    self.done += 1
                    if self.done % 2 == 0:
                        continue
                    if self.mode == "delete":
                        self.admin.delete(name)
                    elif self.admin.exists(name):
                        self.admin.append(name, b"x")
        return data

    def answered(self, data):
        if self.mode == "lie" and self.header in data:
            self.done += 1
            if self.done % 2 == 0:
                other = int(self.header[1:-2]) + (1 if self.done % 4 else -1)
                data = data.replace(self.header, f"${other}\r\n".encode(), 1)
        return data
