# SPDX-License-Identifier: MPL-2.0
"""The bed of other tests does what it says, shown with plain sockets: else it could let them pass."""

import hashlib
import os
import random
import socket
import subprocess
import threading
import time
import types

import pytest

from harness import PYTHON, scaled, wait_until
from net import SO_RCVBUFFORCE, Bed, Switch, Unavailable, frames_of, streams_of


@pytest.fixture(scope="module")
def bed():
    try:
        with Bed("hub", "w1", "w2") as made:
            yield made
    except Unavailable as why:
        pytest.skip(f"no network namespaces: {why}")


@pytest.fixture(autouse=True)
def as_new(request):
    if "bed" in request.fixturenames:
        for host in request.getfixturevalue("bed").hosts.values():
            host.restore()


class Pair:
    """A TCP connection from one host to another."""

    def __init__(self, client, server):
        with server.listen() as listening:
            self.client = client.dial(listening.getsockname())
            self.server, _ = listening.accept()
        self.server.settimeout(scaled(20))
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, text):
        self.client.sendall(text)

    def hears(self, seconds):
        """What the server reads within that time, or None."""
        self.server.settimeout(seconds)
        try:
            return self.server.recv(65536)
        except TimeoutError:
            return None

    def round_trip(self):
        begun = time.monotonic()
        self.say(b"?")
        self.server.settimeout(scaled(20))
        assert self.server.recv(1) == b"?"
        self.server.sendall(b"!")
        assert self.client.recv(1) == b"!"
        return time.monotonic() - begun

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.close()


def test_hosts_reach_each_other_and_nothing_else(bed):
    for one, other in (("w1", "hub"), ("hub", "w1"), ("w1", "w2"), ("w2", "hub")):
        with Pair(bed[one], bed[other]) as pair:
            assert pair.round_trip() < scaled(1)
    with socket.create_server(("0.0.0.0", 0)) as ours:
        port = ours.getsockname()[1]
        for address in (bed.ours, "127.0.0.1"):
            with pytest.raises(OSError):
                bed["w1"].dial((address, port), 1)
        bed["hub"].dial((bed.ours, port)).close()


def test_this_machine_reaches_the_first_host_also_when_it_is_cut(bed):
    bed["hub"].cut()
    server = bed["hub"].socket()
    server.bind(("0.0.0.0", 0))
    server.listen()
    port = server.getsockname()[1]
    socket.create_connection((bed.management, port), scaled(5)).close()
    with pytest.raises(OSError):
        bed["w1"].dial((bed["hub"].address, port), 1)
    server.close()


def test_much_comes_whole(bed):
    data = random.Random(7).randbytes(20_000_000)
    with Pair(bed["w1"], bed["hub"]) as pair:
        thread = threading.Thread(target=pair.say, args=(data,))
        digest, left, begun = hashlib.sha256(), len(data), time.monotonic()
        thread.start()
        while left:
            piece = pair.server.recv(1 << 20)
            assert piece
            digest.update(piece)
            left -= len(piece)
        took = time.monotonic() - begun
        thread.join()
    assert digest.digest() == hashlib.sha256(data).digest()
    assert len(data) / took > 1e6 / scaled(1), f"{len(data) / took / 1e6:.1f} MB/s"


def test_a_cut_is_silent_and_what_was_sent_comes_after_it(bed):
    with Pair(bed["w1"], bed["hub"]) as pair, Pair(bed["w2"], bed["hub"]) as other:
        for end in ("w1", "hub"):
            bed[end].cut()
            _, dropped = bed.stats()
            pair.say(b"cut off")
            assert pair.hears(0.5) is None
            assert bed.stats()[1] > dropped
            with pytest.raises(TimeoutError):  # not "refused", nobody says anything
                bed["w1"].dial((bed["hub"].address, 1), 0.3)
            if end == "w1":
                other.say(b"another end")
                assert other.hears(scaled(5)) == b"another end"
            bed[end].restore()
            assert pair.hears(scaled(20)) == b"cut off"


def test_what_is_on_its_way_when_it_is_cut_does_not_arrive(bed):
    with bed["hub"].socket(socket.SOCK_DGRAM) as server, bed["w1"].socket(socket.SOCK_DGRAM) as client:
        server.bind((bed["hub"].address, 0))
        ask_and_wait(client, server)
        bed["w1"].delay(300)
        handed, dropped = bed.stats()
        client.sendto(b"gone", server.getsockname())
        bed["w1"].cut()
        wait_until(lambda: bed.stats()[1] > dropped, "it is dropped where it was to arrive")
        assert bed.stats()[0] == handed
        bed["w1"].restore()
        client.sendto(b"next", server.getsockname())
        assert server.recv(100) == b"next"


def ask_and_wait(client, server):
    """After this both know each other's hardware address."""
    client.sendto(b"?", server.getsockname())
    _, address = server.recvfrom(100)
    server.sendto(b"!", address)
    client.recv(100)


def test_a_delay_is_one_each_way(bed):
    with Pair(bed["w1"], bed["hub"]) as pair, Pair(bed["w2"], bed["hub"]) as other:
        assert min(pair.round_trip() for _ in range(10)) < 0.1
        bed["w1"].delay(150)
        times = [pair.round_trip() for _ in range(3)]
        assert min(times) >= 0.3 and min(times) < scaled(0.6), times
        assert min(other.round_trip() for _ in range(10)) < 0.1, "others are not slowed down"
        bed["w1"].restore()
        assert min(pair.round_trip() for _ in range(10)) < 0.1


@pytest.mark.parametrize("percent", [5, 30])
def test_so_many_frames_are_lost(bed, percent):
    with bed["hub"].socket(socket.SOCK_DGRAM) as server, bed["w1"].socket(socket.SOCK_DGRAM) as client:
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)  # nothing is lost but on the wire
        server.bind((bed["hub"].address, 0))
        ask_and_wait(client, server)
        bed["w1"].lose(percent)
        handed, dropped = bed.stats()
        for i in range(2000):
            client.sendto(b"%d" % i, server.getsockname())
            if i % 50 == 49:  # no more on their way than buffers hold
                wait_until(lambda: sum(bed.stats()) - handed - dropped > i, "the wire has seen them", pause=0.001)
        bed["w1"].restore()
        client.sendto(b"end", server.getsockname())
        got = list(iter(lambda: server.recv(100), b"end"))
    assert len(got) == len(set(got)) and got == sorted(got, key=int)
    assert 0.7 * percent < (2000 - len(got)) / 20 < 1.3 * percent


def test_tcp_gets_over_loss(bed):
    data = os.urandom(300_000)
    with Pair(bed["w1"], bed["hub"]) as pair:
        bed["w1"].lose(10)
        _, dropped = bed.stats()
        thread = threading.Thread(target=pair.say, args=(data,))
        thread.start()
        got = bytearray()
        while len(got) < len(data):
            got += pair.server.recv(65536)
        thread.join()
        assert bytes(got) == data
        assert bed.stats()[1] - dropped > 10


def test_the_same_seed_loses_the_same():
    def lost(seed):
        switch, end = Switch(seed, []), types.SimpleNamespace(cut=False, loss=0.2)
        return [switch.loses(end) for _ in range(100)]

    assert lost("3") == lost("3") != lost("4")


def test_a_capture_has_all_that_was_sent_while_it_ran(bed, tmp_path):
    file = tmp_path / "frames"
    needle = b"in a haystack of frames"
    with Pair(bed["w1"], bed["hub"]) as pair:
        pair.say(b"before the capture")
        assert pair.hears(scaled(5))
        with bed.capture(file):
            pair.say(needle[:9])
            assert pair.hears(scaled(5))
            pair.say(needle[9:])
            assert pair.hears(scaled(5))
            bed["w1"].lose(100)
            pair.say(b"; sent in vain")
            assert pair.hears(0.3) is None
            bed["w1"].restore()
            assert pair.hears(scaled(20))
        pair.say(b"after the capture")
        assert pair.hears(scaled(5))
        name = (*pair.client.getsockname(), *pair.server.getsockname())
    frames = list(frames_of(file))
    assert sum(needle[:9] in frame for frame in frames) >= 1 and not any(needle in frame for frame in frames)
    assert sum(b"sent in vain" in frame for frame in frames) >= 2, "what is lost on the wire was sent, too"
    assert streams_of(file)[name] == needle + b"; sent in vain"
    assert b"the capture" not in file.read_bytes()


def test_a_large_stream_is_captured_whole_although_frames_are_lost(bed, tmp_path):
    data = os.urandom(200_000)
    file = tmp_path / "frames"
    with bed.capture(file), Pair(bed["w2"], bed["hub"]) as pair:
        bed["w2"].lose(5)
        thread = threading.Thread(target=pair.say, args=(data,))
        thread.start()
        got = bytearray()
        while len(got) < len(data):
            got += pair.server.recv(65536)
        thread.join()
        name = (*pair.client.getsockname(), *pair.server.getsockname())
    assert streams_of(file)[name] == bytes(got) == data


def test_a_process_runs_on_a_host(bed):
    code = "import os, socket; s = socket.socket(); s.bind(('%s', 0)); print(os.getpid())" % bed["w1"].address
    process = subprocess.Popen([*bed["w1"].prefix, PYTHON, "-IS", "-c", code], stdout=subprocess.PIPE, text=True)
    assert int(process.communicate(timeout=scaled(20))[0]) == process.pid
    assert process.returncode == 0
    done = subprocess.run([*bed["w2"].prefix, PYTHON, "-IS", "-c", code], capture_output=True)
    assert done.returncode != 0, "that address is another host's"


def test_nothing_is_left_of_a_bed(bed):
    """`bed` stands for: namespaces can be made."""
    with Bed("hub", "w1") as made:
        names = {made.link, made.wire_namespace, *(host.namespace for host in made.hosts.values())}
        assert names <= present() and bed.link in present()
    assert not names & present()
    assert bed.link in present() and bed["w1"].namespace in present(), "what others made stays"


def test_nothing_is_left_of_a_bed_whose_maker_was_killed(bed):
    code = (
        "import os, sys; sys.path.insert(0, %r); from net import Bed; b = Bed('hub', 'w1').__enter__(); "
        "print(b.link, b.wire_namespace, *(h.namespace for h in b.hosts.values()), flush=True); os.kill(os.getpid(), 9)"
    ) % os.path.dirname(__file__)
    done = subprocess.run([PYTHON, "-I", "-c", code], stdout=subprocess.PIPE, text=True)
    names = set(done.stdout.split())
    assert len(names) == 4, done
    wait_until(lambda: not names & present(), "its namespaces and its link are removed")


def present():
    return set(os.listdir("/run/netns")) | set(os.listdir("/sys/class/net"))
