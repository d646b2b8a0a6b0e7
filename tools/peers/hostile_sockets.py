"""Raw TCP against an engine's RPC and HTTP ports: bytes that are no ZMTP, messages cut off, HTTP that is none."""
import json, random, socket, struct, time, urllib.request

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"


def frame(body, more=False, command=False):
    flags = (1 if more else 0) | (4 if command else 0)
    if len(body) > 255:
        return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def connect(port, data=b""):
    conn = socket.create_connection(("127.0.0.1", port), timeout=20)
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if data:
        try:
            conn.sendall(data)
        except OSError:
            pass  # it was cut off already
    return conn


def ended(conn, seconds=20):
    """True if the peer closes within that time; what it sends is read and dropped."""
    conn.settimeout(seconds)
    try:
        while conn.recv(65536):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        conn.close()


def shake_hands(port):
    """A ZMTP connection that has been served once: what follows is read as messages."""
    conn = connect(port, GREETING)
    seen = b""
    while b"Identity" not in seen:  # the peer takes nothing that comes before it has spoken
        seen += conn.recv(4096) or b"Identity: closed"
    conn.sendall(frame(READY, command=True))
    time.sleep(0.002)
    conn.sendall(frame(b"\x07", more=True) + frame(b"\x18"))
    assert conn.recv(4096).endswith(b"\xa2OK"), "no reply to a raw noop"
    return conn


def zmtp_cases(server, seed):
    """(label, attack) of each case; an attack returns text, or raises AssertionError."""
    rng = random.Random(seed)
    port = server.port

    def garbage():
        starts = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"\r\n" * 50,
                  GREETING.replace(b"NULL", b"PLAI"), GREETING.replace(b"NULL", b"CURVE"[:4]), b"\xff" + bytes(8) + b"\x7f\x01",
                  b"\x01\x00", b"*1\r\n$4\r\nPING\r\n", GREETING[:40]]
        for number in range(600):
            connect(port, rng.choice(starts) if number % 2 else rng.randbytes(rng.randint(1, 300))).close()
        return "600 connections that speak no ZMTP"

    def bad_handshakes():
        commands = [b"", b"\x05READY", b"\x05READY\xff", b"\x05READY\x0bSocket-Type\xff\xff\xff\xff", b"\x05HELLO" + bytes(100),
                    b"\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER", b"\x05READY\x0bSocket-Type\x00\x00\x00\x05XXXXX",
                    READY + b"\x08Identity\x00\x00\x03\xe8" + bytes(1000), b"\x05ERROR\xff", rng.randbytes(200), READY * 900]
        for number in range(400):
            connect(port, GREETING + frame(commands[number % len(commands)], command=number % 7 != 0)).close()
        return "400 bad handshakes"

    def lying_frames():
        bodies = [b"\x02" + b"\xff" * 8, b"\x03" + b"\x7f" + b"\xff" * 7, b"\x02" + struct.pack(">Q", 2**31), b"\xf8\x01a", b"\x00",
                  b"\x02" + struct.pack(">Q", 300 * 2**20) + bytes(1000), b"\x04\x05\x04PING", b"\x04\xff" + bytes(255)]
        for number in range(400):
            conn = shake_hands(port)
            conn.sendall(bodies[number % len(bodies)])
            conn.close()
        return "400 connections whose frames lie about their length"

    def half_messages():
        parts = [frame(b"\x07", more=True), frame(b"\x18", more=True), frame(bytes(300_000), more=True), frame(b"\xc0")]
        for number in range(1200):
            whole = b"".join(parts[: 1 + number % 3])
            conn = shake_hands(port)
            conn.sendall(whole[: rng.randint(1, len(whole))])
            conn.close()
        return "1200 connections gone in the middle of a message"

    def many_frames():
        parts, refused = b"".join(frame(bytes(1000), more=True) for _ in range(4000)), 0
        for number in range(12):
            conn = shake_hands(port)
            try:
                conn.sendall(frame(b"\x07", more=True) + frame(b"\x18", more=True) + parts)
                if number % 2:
                    conn.sendall(frame(b"\xc0"))
                    refused += b" arguments" in conn.recv(4096)
            except OSError:
                refused += number % 2  # cut off
            conn.close()
        assert refused == 6, f"{refused} of 6 refused"
        return "12 messages of 4000 frames, 6 of them without an end: refused"

    def silence():
        conns = [connect(port, rng.choice((b"", GREETING[:11], GREETING))) for _ in range(1200)]
        conns += [shake_hands(port) for _ in range(300)]
        time.sleep(2)
        for conn in conns:
            conn.close()
        return "1500 connections that say nothing more"

    return [("no ZMTP", garbage), ("bad handshakes", bad_handshakes), ("frames that lie", lying_frames),
            ("half messages", half_messages), ("messages of thousands of frames", many_frames), ("silence", silence)]


def status_of(conn, seconds=20):
    """Status code of the reply; 0 if the connection ends without one, None if it stays open in silence."""
    conn.settimeout(seconds)
    try:
        head = conn.recv(65536)
        return int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
    except TimeoutError:
        return None
    except OSError:
        return 0
    finally:
        conn.close()


def request(method, path, body=b"", headers=()):
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", "Content-Type: application/json",
             "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin1") + b"\r\n\r\n" + body


def http_cases(server, seed):
    """As `zmtp_cases`, for the HTTP port."""
    rng = random.Random(seed)
    port = server.http_port

    def ask(data):
        return status_of(connect(port, data))

    def well(seconds=5):
        with urllib.request.urlopen(server.http + "/healthcheck", timeout=seconds) as reply:
            return json.load(reply)["status"] == "healthy"

    def no_http():
        seen = {ask(data) for data in [b"\x16\x03\x01" + bytes(300) + b"\r\n\r\n", GREETING, b"GET\r\n\r\n", b"\0" * 1000,
                                       b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nA: \0\r\n\r\n",
                                       b"POST /cache/clear HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
                                       b"POST /cache/clear HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n"
                                       b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                                       *(rng.randbytes(200) + b"\r\n\r\n" for _ in range(200))]}
        assert seen <= {0, 400, 403, 505} and well(), f"answers {seen}"
        return f"208 requests that are no HTTP: {sorted(seen)}"

    def large():
        seen = {"headers": ask(request("GET", "/status", headers=[f"X-{n}: {'a' * 8000}" for n in range(10)])),
                "many headers": ask(request("GET", "/status", headers=[f"X-{n}: a" for n in range(5000)])),
                "path": ask(request("GET", "/" + "a" * 100_000)),
                "query": ask(request("GET", "/cache/objects?tier=" + "a" * 10_000)),
                "body": ask(request("POST", "/cache/clear", b" " * 100_000)),
                "said body": ask(b"POST /cache/clear HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                                 b"Content-Length: 99999999999\r\n\r\n{}"),
                "chunked body": ask(b"POST /cache/clear HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                                    b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 20 + b"0\r\n\r\n")}
        want = {"headers": 431, "many headers": 431, "path": 431, "query": 422, "body": 413, "said body": 413, "chunked body": 413}
        assert seen == want and well(), f"{seen}, wanted {want}"
        return f"{seen}"

    def bad_json():
        bodies = [b"{", b"[]", b"null", b"1", b'"x"', b'{"tier":1}', b'{"tier":"l1","force":"yes"}', b"\xff\xfe", b"[" * 60_000,
                  b'{"__proto__":{"force":true},"tier":"l3"}', b'{"tier":' + b'{"a":' * 9000 + b"1" + b"}" * 9000 + b"}"]
        seen = {}
        for method, path in [("POST", "/cache/clear"), ("DELETE", "/cache/objects"), ("POST", "/cache/prefetches"),
                             ("POST", "/cache/checksums"), ("PUT", "/quota/salt")]:
            for body in bodies:
                seen.setdefault(ask(request(method, path, body)), []).append((path, body[:20]))
        assert set(seen) <= {400, 404, 422} and well(), f"{ {k: v[:3] for k, v in seen.items()} }"
        return f"{sum(map(len, seen.values()))} bad bodies: { {k: len(v) for k, v in seen.items()} }"

    def paths():
        tried = ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/quota/..%2f..%2fetc", "/quota/%", "/quota/%ff", "/quota/%00",
                 "/status/../config", "//etc/passwd", "/cache/objects?page_token=../../x&tier=l2", "/quota/" + "a" * 4000,
                 "/cache/prefetches/%2e%2e", "/cache/objects?page_size=-1&tier=l2", "/cache/objects?page_size=1e99&tier=l2",
                 "/loglevel?logger_name=__proto__&level=DEBUG", "/periodic-threads/constructor", "/reconfigure/__proto__/l2/status",
                 "http://evil/status", "*", "/?" + "&".join(f"a{n}=1" for n in range(1000))]
        seen = {path[:40]: ask(request("GET", path)) for path in tried}
        assert all(code in (200, 400, 403, 404, 405, 409, 422) for code in seen.values()) and well(), f"{seen}"
        evil = ask(request("POST", "/cache/clear", b'{"tier":"l1"}', ["Origin: http://evil.example"]))
        assert evil == 403, f"a foreign Origin may clear: {evil}"
        return f"{len(tried)} paths: {sorted(set(seen.values()))}; a foreign Origin: {evil}"

    def slow():
        """Requests that never end hold all connections that are allowed; they are ended, and the port answers again."""
        conns = []
        for number in range(300):
            try:
                conns.append(connect(port, b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " if number % 2 else b""))
            except OSError:
                break
        begin = time.monotonic()
        while True:
            try:
                if well(2):
                    break
            except OSError:
                pass
            assert time.monotonic() - begin < 60, "the port does not answer for 60 s"
            for conn in conns[1::2]:
                try:
                    conn.send(b"a")
                except OSError:
                    pass
            time.sleep(0.2)
        took = time.monotonic() - begin
        for conn in conns:
            conn.close()
        assert took < 16, f"the port answered again only after {took:.1f} s"
        return f"{len(conns)} slow connections; the port answered others again after {took:.1f} s"

    return [("no HTTP", no_http), ("too large", large), ("bad JSON", bad_json), ("paths", paths), ("slow requests", slow)]
