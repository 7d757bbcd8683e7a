"""WebSockets over HTTP/2 by Python's `h2` and `wsproto`: `http2.py PORT` writes a line for each check."""

import random
import socket
import ssl
import sys

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, ConnectionTerminated, RemoteSettingsChanged
from h2.settings import SettingCodes
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.extensions import PerMessageDeflate

PORT = int(sys.argv[1])
SMALL_WINDOW = 65_535
LARGE_WINDOW = 2**24


class Client:
    """A connection, whose streams are read by `pump`. `settings` are sent first."""

    def __init__(self, settings=None):
        trust = ssl.create_default_context()
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
        trust.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", PORT), timeout=20)
        self.socket = trust.wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.h2.increment_flow_control_window(LARGE_WINDOW)
        self.received = {}
        self.heads = {}
        self.ended = {}
        # Streams that give no credit back.
        self.stingy = set()
        self.can_connect = False
        self.pump(lambda: self.can_connect)

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def pump(self, is_done):
        """Reads and writes until `is_done()`."""
        self.flush()
        while not is_done():
            data = self.socket.recv(65_536)
            if not data:
                raise AssertionError("the connection has ended")
            for event in self.h2.receive_data(data):
                self.handle(event)
            self.flush()

    def handle(self, event):
        stream = getattr(event, "stream_id", None)
        match event:
            case RemoteSettingsChanged():
                self.can_connect |= self.h2.remote_settings.enable_connect_protocol == 1
            case ResponseReceived():
                self.heads[stream] = dict(event.headers)
            case DataReceived():
                self.received[stream] = self.received.get(stream, b"") + event.data
                if stream in self.stingy:
                    self.h2.increment_flow_control_window(event.flow_controlled_length)
                else:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            case StreamEnded():
                self.ended.setdefault(stream, "end")
            case StreamReset():
                self.ended[stream] = event.error_code
            case ConnectionTerminated():
                raise AssertionError(f"GOAWAY {event.error_code}")

    def connect(self, path):
        """Sends an extended CONNECT."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", path),
            (":authority", f"localhost:{PORT}"), ("sec-websocket-version", "13"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ])
        return stream

    def answered(self, stream):
        """Waits for a response."""
        self.pump(lambda: stream in self.heads)
        return self.heads[stream]

    def get(self, path):
        """A plain request."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(":method", "GET"), (":scheme", "https"), (":path", path),
                                      (":authority", f"localhost:{PORT}")], end_stream=True)
        self.pump(lambda: stream in self.ended)
        assert self.heads[stream][":status"] == "200", self.heads[stream]
        return self.received.get(stream, b"")

    def send(self, stream, data):
        """Sends data as far as the windows and the frame size allow, waiting for credit."""
        while data:
            self.pump(lambda: self.h2.local_flow_control_window(stream) > 0)
            length = min(len(data), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            self.h2.send_data(stream, data[:length])
            data = data[length:]
        self.flush()


class Tunnel:
    """A WebSocket on a stream."""

    def __init__(self, client, path, early=()):
        self.client = client
        self.stream = client.connect(path)
        deflate = PerMessageDeflate()
        deflate.offer()
        self.messages = []
        self.partial = None
        self.read = 0
        self.closed = None
        # Whether it deflates is the endpoint's choice: what comes before the response does not.
        early_frames = Connection(ConnectionType.CLIENT)
        for message in early:
            client.h2.send_data(self.stream, early_frames.send(message))
        head = client.answered(self.stream)
        assert head[":status"] == "200", head
        assert "content-length" not in head and "sec-websocket-accept" not in head, head
        deflate.finalize(head["sec-websocket-extensions"])
        self.frames = Connection(ConnectionType.CLIENT, extensions=[deflate])

    def send(self, message):
        self.client.send(self.stream, self.frames.send(message))

    def take(self):
        """Reads what has come."""
        data = self.client.received.get(self.stream, b"")
        if len(data) > self.read:
            self.frames.receive_data(data[self.read:])
            self.read = len(data)
        for event in self.frames.events():
            if isinstance(event, CloseConnection):
                self.closed = event.code
                continue
            self.partial = event.data if self.partial is None else self.partial + event.data
            if event.message_finished:
                self.messages.append(self.partial)
                self.partial = None
        return self.messages

    def next(self, count=1):
        """Waits for so many messages, and returns them."""
        self.client.pump(lambda: len(self.take()) >= count)
        messages, self.messages = self.messages[:count], self.messages[count:]
        return messages

    def echo(self, message):
        kind = TextMessage if isinstance(message, str) else BytesMessage
        self.send(kind(data=message))
        (answer,) = self.next()
        assert answer == message, (len(answer), len(message))


def both_ways():
    client = Client()
    tunnels = [Tunnel(client, "/echo") for _ in range(20)]
    for number, tunnel in enumerate(tunnels):
        for message in ["", f"short {number}", "deflates well " * 1000, random.randbytes(100_000)]:
            tunnel.echo(message)
    # A message in fragments, each of them a DATA frame for every byte.
    tunnel = tunnels[0]
    for part in ["one ", "two ", "three"]:
        data = tunnel.frames.send(TextMessage(data=part, message_finished=part == "three"))
        for byte in data:
            client.h2.send_data(tunnel.stream, bytes([byte]))
    client.flush()
    assert tunnel.next() == ["one two three"]
    for tunnel in tunnels:
        tunnel.send(CloseConnection(code=1000))
        client.pump(lambda: tunnel.stream in client.ended)
        tunnel.take()
        assert (tunnel.closed, client.ended[tunnel.stream]) == (1000, "end"), (tunnel.closed, client.ended)


def early_data():
    client = Client()
    tunnel = Tunnel(client, "/late", [TextMessage(data="before"), TextMessage(data="the 200")])
    assert tunnel.next(2) == ["before", "the 200"]
    tunnel.echo("after it")


def no_credit_for_us():
    """The endpoint floods, and the client gives no credit: tidegate sends what fits, and the neighbours go on."""
    client = Client()
    neighbour = Tunnel(client, "/echo")
    client.stingy.add(client.h2.get_next_available_stream_id())
    flooded = Tunnel(client, "/flood")
    client.pump(lambda: len(client.received.get(flooded.stream, b"")) == SMALL_WINDOW)
    for number in range(50):
        neighbour.echo(f"neighbour {number}" * 100)
    assert client.get("/page") == b"/page"
    assert len(client.received[flooded.stream]) == SMALL_WINDOW
    client.stingy.clear()
    client.h2.increment_flow_control_window(SMALL_WINDOW, flooded.stream)
    messages = flooded.next(1024)
    assert [message[:1] for message in messages] == [bytes([count % 256]) for count in range(1024)]
    assert all(len(message) == 1024 for message in messages)


def no_window_at_first():
    """A client whose windows are 0 until it has read the response."""
    client = Client({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    tunnel = Tunnel(client, "/echo")
    tunnel.send(TextMessage(data="in a window of three bytes"))
    # The answer comes in pieces of this length.
    while not tunnel.take():
        client.h2.increment_flow_control_window(3, tunnel.stream)
        before = len(client.received.get(tunnel.stream, b""))
        client.pump(lambda: len(client.received.get(tunnel.stream, b"")) > before)
    assert tunnel.next() == ["in a window of three bytes"]


def no_credit_from_them():
    """The endpoint reads nothing: the client uses up its window, and the neighbours go on."""
    client = Client()
    neighbour = Tunnel(client, "/echo")
    stalled = Tunnel(client, "/stall")
    sent = 0
    frame = None
    while True:
        frame = stalled.frames.send(BytesMessage(data=random.randbytes(16_000)))
        if client.h2.local_flow_control_window(stalled.stream) < len(frame):
            # It may be only late: a neighbour's answer comes after the credit that is on its way.
            for _ in range(5):
                neighbour.echo("is there credit?")
            if client.h2.local_flow_control_window(stalled.stream) < len(frame):
                break
        client.send(stalled.stream, frame)
        sent += 1
        assert sent < 5000, "the endpoint does not stall"
    for number in range(50):
        neighbour.echo(f"neighbour {number}" * 100)
    client.get("/resume")
    client.send(stalled.stream, frame)
    stalled.send(TextMessage(data="how many?"))
    assert stalled.next() == [f"[{sent + 1},{(sent + 1) * 16_000}]"]


def resets():
    client = Client()
    neighbour = Tunnel(client, "/echo")
    for count in range(1, 51):
        tunnel = Tunnel(client, "/echo?reset")
        tunnel.send(TextMessage(data="no one reads the answer"))
        client.h2.reset_stream(tunnel.stream, ErrorCodes.CANCEL)
        client.flush()
        neighbour.echo(f"after reset {count}")
    # Before the response as well.
    for _ in range(50):
        stream = client.connect("/late")
        client.flush()
        client.h2.reset_stream(stream, ErrorCodes.CANCEL)
    neighbour.echo("after resets of handshakes")
    reset = Tunnel(client, "/reset")
    reset.send(TextMessage(data="now"))
    client.pump(lambda: reset.stream in client.ended)
    assert client.ended[reset.stream] == ErrorCodes.CANCEL, client.ended[reset.stream]
    neighbour.echo("after a reset by the endpoint")


CHECKS = [both_ways, early_data, no_credit_for_us, no_window_at_first, no_credit_from_them, resets]

for check in CHECKS:
    check()
    print(check.__name__, flush=True)
