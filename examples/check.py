"""Asks Weir over NATS, with nothing but Python's standard library:

    python3 check.py nats://127.0.0.1:4222

NATS speaks lines of text. A client library does the same, and connects again.
"""

import json
import socket
import sys
import uuid
from urllib.parse import urlsplit

CHECK = "weir.check.0.acme.python-1"  # shard, tenant, a name of this process alone
DECISIONS = "weir.decision.*.acme.python-1"
INBOX = f"_INBOX.{uuid.uuid4().hex}"


def publish(event, reply=""):
    """Publish an event. Its decision goes to DECISIONS, and to a reply subject."""
    text = json.dumps(event)
    server.sendall(f"PUB {CHECK} {reply} {len(text)}\r\n{text}\r\n".encode())


def receive():
    """Return the subject and the content of the next message."""
    global received
    while True:
        line, ended, rest = received.partition(b"\r\n")
        words = line.split()
        if ended and words[0] != b"MSG":
            received = rest
            if words[0] == b"PING":
                server.sendall(b"PONG\r\n")
        elif ended and len(rest) >= int(words[-1]) + 2:
            content, received = rest[: int(words[-1])], rest[int(words[-1]) + 2 :]
            return words[1].decode(), json.loads(content)
        else:
            more = server.recv(1 << 16)
            if not more:
                raise ConnectionError("the server has ended the connection")
            received += more


def decide(event):
    """Return the decision about an event; without one in time the request passes."""
    reply = f"{INBOX}.{uuid.uuid4().hex}"
    try:
        publish(event, reply)
        while True:
            subject, answer = receive()
            if subject == reply and "verdict" in answer:
                return answer
            if subject == reply:
                raise ValueError(answer["detail"])  # Weir says what is wrong
            if not subject.startswith(INBOX):  # else it comes too late
                print(
                    f"{answer['id']}: {answer['verdict']}, {answer['remaining']} left"
                )
    except (OSError, ValueError) as error:
        print(f"no decision: {error}")
        return {"verdict": "allow", "reason": "timeout"}


url = urlsplit(sys.argv[1])
server = socket.create_connection((url.hostname, url.port), timeout=0.1)
received = b""
server.sendall(b'CONNECT {"verbose":false}\r\n')
server.sendall(f"SUB {DECISIONS} 1\r\nSUB {INBOX}.* 2\r\n".encode())

# Publish an event, and go on: its decision is told apart by its id.
publish({"id": uuid.uuid4().hex, "user": "43", "method": "GET", "path": "/orders"})
# Or wait for the decision, but not for long.
print(decide({"user": "43", "method": "GET", "path": "/orders"})["verdict"])
print(decide({"user": "43", "method": "GET", "cost": -1})["verdict"])
