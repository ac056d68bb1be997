# SPDX-License-Identifier: MPL-2.0
"""Hosts made of network namespaces, and the wire between them, which a test can cut, slow down, make lossy and tap.

    with Bed("hub", "w1", "w2") as bed:
        bed["w1"].cut()

Each host is a namespace with one interface, eth0.  The other ends of these are in a namespace of their own, where a
process hands frames from one to the other: the kernel need not have bridges or netem.  The first host has another
link, to this machine, which is never cut: that is how a test talks to the hub.  Needs root and iproute2; Unavailable
says what is missing.  Names have the process id in them.  Everything is removed by a process that waits for the end of
this one, however that comes."""

import array
import collections
import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import pathlib
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

PYTHON = "/usr/bin/python3"
CLONE_NEWNET = 0x40000000
ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING, PACKET_OUTGOING = 3, 263, 23, 4
SO_RCVBUFFORCE = 33
SIOCETHTOOL = 0x8946
OFFLOADS = {"rx": 0x15, "tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # how ethtool -K calls them
NETWORK = "198.18.0"  # RFC 2544: for tests of networks; the links to the hosts called first are in 198.19.0.0/16


class Unavailable(Exception):
    """Says why there can be no bed."""


def inside(namespace, function, *arguments):
    """Call it in a thread that is in this namespace.  A socket made there stays there, whoever uses it."""
    out, libc = [], ctypes.CDLL(None, use_errno=True)

    def call():
        try:
            with open(f"/run/netns/{namespace}", "rb") as file:
                if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            out.append((function(*arguments), None))
        except BaseException as problem:  # pylint: disable=broad-except
            out.append((None, problem))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    value, problem = out[0]
    if problem:
        raise problem
    return value


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Unavailable(f"ip {' '.join(map(str, words))}: {done.stderr.strip()}")


def plain_interface(name):
    """Have the kernel of this namespace make whole frames with checksums, since no card does it behind the wire."""
    with contextlib.suppress(FileNotFoundError):  # a kernel without it
        pathlib.Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS.values():
            value = array.array("I", [command, 0])
            request = struct.pack("16sP", name.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(control, SIOCETHTOOL, request)
            except OSError as problem:
                raise Unavailable(f"offload {command:#x} of {name}: {problem}") from None


class Host:
    """A namespace, and its end of the wire.  What is told to the wire is in effect when the call returns."""

    def __init__(self, bed, name, address):
        self.bed, self.name, self.address = bed, name, address
        self.namespace = f"{bed.prefix}-{name}"
        self.prefix = ["ip", "netns", "exec", self.namespace]  # of a command that is to run here; keeps its pid

    def socket(self, kind=socket.SOCK_STREAM):
        made = inside(self.namespace, socket.socket, socket.AF_INET, kind)
        made.settimeout(20)
        return made

    def listen(self, port=0):
        server = self.socket()
        server.bind((self.address, port))
        server.listen()
        return server

    def dial(self, address, seconds=20):
        made = self.socket()
        made.settimeout(seconds)
        try:
            made.connect(address)
        except OSError:
            made.close()
            raise
        return made

    def cut(self):
        """Nothing comes or goes, what is on its way included; nobody is told."""
        self.bed.tell("cut", self.name)

    def restore(self):
        """As new: neither cut nor slow nor lossy."""
        self.bed.tell("restore", self.name)

    def delay(self, milliseconds):
        """Each frame, in each direction."""
        self.bed.tell("delay", self.name, milliseconds)

    def lose(self, percent):
        """Of the frames in each direction."""
        self.bed.tell("lose", self.name, percent)


class Bed:
    numbers = itertools.count()

    def __init__(self, *names, seed=1):
        self.prefix = f"mt{os.getpid()}-{next(self.numbers)}"
        self.hosts = {name: Host(self, name, f"{NETWORK}.{i}") for i, name in enumerate(names, 1)}
        self.link = self.prefix.replace("-", "m")  # the interface of this machine
        self.wire_namespace = f"{self.prefix}-wire"
        self.seed = seed
        self.keeper = self.wire = None

    def __getitem__(self, name):
        return self.hosts[name]

    # ---- life

    def __enter__(self):
        if os.geteuid() != 0:
            raise Unavailable("only root can make network namespaces")
        if not shutil.which("ip"):
            raise Unavailable("there is no ip (package iproute2)")
        spaces = [self.wire_namespace, *(host.namespace for host in self.hosts.values())]
        if any(os.path.exists(f"/run/netns/{space}") for space in spaces):
            raise Unavailable(f"there are namespaces {self.prefix}-* already")
        self.keep(spaces)
        try:
            self.build(spaces)
        except BaseException:
            self.__exit__()
            raise
        return self

    def keep(self, spaces):
        script = 'cat >/dev/null; ip link del "$1"; shift; for n in "$@"; do ip netns del "$n"; done'
        self.keeper = subprocess.Popen(
            ["sh", "-c", script, "keeper", self.link, *spaces],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def build(self, spaces):
        for space in spaces:
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        for host in self.hosts.values():
            ip("-n", self.wire_namespace, "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns",
               host.namespace)
            inside(host.namespace, plain_interface, "eth0")
            inside(self.wire_namespace, plain_interface, host.name)
            ip("-n", self.wire_namespace, "link", "set", host.name, "up")
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
        self.connect_us(next(iter(self.hosts.values())))
        self.wire = subprocess.Popen(
            ["ip", "netns", "exec", self.wire_namespace, PYTHON, "-IS", __file__, str(self.seed), *self.hosts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.tell("stats")

    def connect_us(self, host):
        number = os.getpid() * 7 + int(self.prefix.rpartition("-")[2])
        a, b = divmod(number % 16384 * 4, 256)
        self.ours, self.management = f"198.19.{a}.{b + 1}", f"198.19.{a}.{b + 2}"
        ip("link", "add", self.link, "type", "veth", "peer", "name", "management", "netns", host.namespace)
        ip("addr", "add", f"{self.ours}/30", "dev", self.link)
        ip("link", "set", self.link, "up")
        ip("-n", host.namespace, "addr", "add", f"{self.management}/30", "dev", "management")
        ip("-n", host.namespace, "link", "set", "management", "up")

    def __exit__(self, *_):
        if self.wire:
            self.wire.stdin.close()
            self.wire.wait(20)
            self.wire.stdout.close()
        self.keeper.stdin.close()
        self.keeper.wait(20)

    # ---- the wire

    def tell(self, *words):
        try:
            print(*words, file=self.wire.stdin, flush=True)
            answer = self.wire.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer.startswith("ok"):
            raise Unavailable(f"the wire answers {answer!r} to {words}")
        return answer.split()[1:]

    def stats(self):
        """(frames handed on, frames dropped), since the beginning."""
        handed, dropped = self.tell("stats")
        return int(handed), int(dropped)

    @contextlib.contextmanager
    def capture(self, file):
        """Keep every frame that a host sends meanwhile; see frames_of and streams_of."""
        self.tell("capture", file)
        try:
            yield
        finally:
            self.tell("capture")


def frames_of(file):
    data, at = pathlib.Path(file).read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def streams_of(file):
    """What each side of each TCP connection said: {(address, port, address, port): bytes}.  Text that the network cut
    in two is whole here."""
    flows = collections.defaultdict(dict)
    for frame in frames_of(file):
        if frame[12:14] != b"\x08\0" or frame[23] != 6:
            continue
        ip_size, total = (frame[14] & 15) * 4, struct.unpack_from(">H", frame, 16)[0]
        tcp = frame[14 + ip_size : 14 + total]
        payload = tcp[(tcp[12] >> 4) * 4 :]
        source, target, number = struct.unpack_from(">HHI", tcp)
        flow = flows[socket.inet_ntoa(frame[26:30]), source, socket.inet_ntoa(frame[30:34]), target]
        if tcp[13] & 2:
            flow.clear()  # a port that is used again; what was said before is in the frames
            flow["first"] = number + 1
        elif payload:
            place = (number - flow.setdefault("first", number)) & 0xFFFFFFFF
            if len(payload) > len(flow.get(place, b"")):
                flow[place] = payload
    return {name: joined(flow) for name, flow in flows.items()}


def joined(flow):
    out = bytearray()
    for place in sorted(place for place in flow if place != "first"):
        out += flow[place][max(0, len(out) - place) :] if place <= len(out) else flow[place]
    return bytes(out)


# ---- the process that is the wire ----


class End:
    def __init__(self, name):
        self.name = name
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setblocking(False)
        self.socket.bind((name, ETH_P_ALL))
        self.restore()

    def restore(self):
        self.cut, self.wait, self.loss = False, 0.0, 0.0


class Switch:
    def __init__(self, seed, names):
        self.chance = random.Random(seed)
        self.ends = {name: End(name) for name in names}
        self.places = {}  # which address is behind which end
        self.later = []  # (when, number, from, to, frame)
        self.numbers = itertools.count()
        self.file = None
        self.handed = self.dropped = 0

    def run(self):
        poll, ends = select.epoll(), {end.socket.fileno(): end for end in self.ends.values()}
        for fd in (0, *ends):
            poll.register(fd, select.EPOLLIN)
        while True:
            wait = max(0.0, self.later[0][0] - time.monotonic()) if self.later else -1
            for fd, _ in poll.poll(wait):
                if fd == 0:
                    if not self.command(sys.stdin.readline().split()):
                        return
                else:
                    self.receive(ends[fd])
            while self.later and self.later[0][0] <= time.monotonic():
                _, _, source, target, frame = heapq.heappop(self.later)
                self.hand(source, target, frame)

    def command(self, words):
        if not words:
            return False
        verb, *rest = words
        end, answer = self.ends.get(rest[0] if rest else ""), ""
        if verb == "cut":
            end.cut = True
        elif verb == "restore":
            end.restore()
        elif verb == "delay":
            end.wait = float(rest[1]) / 1000
        elif verb == "lose":
            end.loss = float(rest[1]) / 100
        elif verb == "capture":
            if self.file:
                self.file.close()
            self.file = open(rest[0], "ab") if rest else None
        else:
            answer = f"{self.handed} {self.dropped}"
        print("ok", answer, flush=True)
        return True

    def receive(self, source):
        for _ in range(64):
            try:
                frame, address = source.socket.recvfrom(65536)
            except BlockingIOError:
                return
            if address[2] != PACKET_OUTGOING:
                self.arrived(source, frame)

    def arrived(self, source, frame):
        if self.file:
            self.file.write(struct.pack(">I", len(frame)) + frame)
        if self.loses(source):
            return
        self.places[frame[6:12]] = source
        target = None if frame[0] & 1 else self.places.get(frame[:6])
        for end in [target] if target else self.ends.values():
            if end is source or self.loses(end):
                continue
            wait = source.wait + end.wait
            if wait:
                heapq.heappush(self.later, (time.monotonic() + wait, next(self.numbers), source, end, frame))
            else:
                self.hand(source, end, frame)

    def loses(self, end):
        lost = end.cut or (end.loss and self.chance.random() < end.loss)
        self.dropped += bool(lost)
        return lost

    def hand(self, source, target, frame):
        try:
            if not source.cut and not target.cut:
                target.socket.send(frame)
                self.handed += 1
                return
        except OSError:
            pass  # no room; as on any wire
        self.dropped += 1


if __name__ == "__main__":
    Switch(sys.argv[1], sys.argv[2:]).run()
