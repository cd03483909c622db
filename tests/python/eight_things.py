"""A workload with a job, and eight things that it must not do.

Reads IN, writes a summary to OUT/summary.json, then tries each of the eight and prints what happened
as one JSON object: name -> "done: ..." or "denied: ...".
"""

import json
import os
import signal
import socket
import sys

(source, out, secret, outside, port, inherited_fd, supervisor, bystander) = sys.argv[1:]


def read_secret():
    with open(secret) as file:
        return file.read()


def write_outside():
    with open(os.path.join(outside, "written"), "w") as file:
        file.write("written")
    return "written"


def rename_out():
    os.rename(os.path.join(out, "mine"), os.path.join(outside, "renamed"))
    return "renamed"


def open_socket():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM):
        return "a socket"


def connect_to_loopback():
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as connection:
        return connection.recv(100).decode()


def read_inherited_fd():
    return os.pread(int(inherited_fd), 100, 0).decode()


def signal_supervisor():
    # Signal 0 asks for the permission alone; the bystander, outside too, is told for real.
    os.kill(int(supervisor), 0)
    os.kill(int(bystander), signal.SIGTERM)
    return "signalled"


def see_environment():
    return os.environ["SUPERVISORS_SECRET"]


with open(source) as file:
    words = file.read().split()
with open(os.path.join(out, "summary.json"), "w") as file:
    json.dump({"words": len(words), "longest": max(words, key=len)}, file)
with open(os.path.join(out, "mine"), "w") as file:
    file.write("mine")

happened = {}
for attempt in (
    read_secret,
    write_outside,
    rename_out,
    open_socket,
    connect_to_loopback,
    read_inherited_fd,
    signal_supervisor,
    see_environment,
):
    try:
        happened[attempt.__name__] = "done: " + attempt()
    except (OSError, KeyError) as error:
        happened[attempt.__name__] = "denied: " + repr(error)
print(json.dumps(happened))
