"""What a stream socket on loopback carries: one process sends, one reads into memory of its own. Prints GB/s, best of 5.

    python loopback.py BYTES: in reads and writes of up to so many.
"""
import os, socket, sys, time

TOTAL = 1 << 30


def send(port, step):
    data = memoryview(bytearray(os.urandom(1 << 16) * (step >> 16)))
    with socket.create_connection(("127.0.0.1", port)) as stream:
        for _ in range(TOTAL // step):
            stream.sendall(data)


def receive(listener, step):
    stream, _ = listener.accept()
    into, left, begin = memoryview(bytearray(step)), TOTAL, None
    with stream:
        while left > 0:
            left -= stream.recv_into(into, min(step, left))
            begin = begin or time.perf_counter()
    return TOTAL / (time.perf_counter() - begin) / 1e9


def main():
    step = int(sys.argv[1])
    best = 0
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            child = os.fork()
            if child == 0:
                send(listener.getsockname()[1], step)
                os._exit(0)
            best = max(best, receive(listener, step))
            os.waitpid(child, 0)
    print(best)


main()
